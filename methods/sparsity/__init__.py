"""Sparse activation."""
