"""Tokens: fewer of them from block to block, or fewer parts of the network for each.

A further method that merges, fuses, drops or halts tokens is one file here.
"""
