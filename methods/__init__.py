"""Conditional computation: the built-in methods, and the dense models that they run on.

    controls/   what every method is compared with: dense, shrunk, random, in hindsight
    experts/    mixtures of experts: a token runs few of many feed-forward layers
    branches/   one of several branches of different cost for each input
    skipping/   depth that depends on the input: exits, skipped blocks, blocks over few tokens
    sparsity/   only the weights or neurons that matter are multiplied
    parts/      helpers that several methods share: gates, dispatch, exits, expert layers
    backbone/   dense model families, one file each
    trunk/      their building blocks: state, stems, blocks, heads, attention, costs

A method is one file with one idea in the folder of its kind, and one entry point in
pyproject.toml. A kind that has no folder yet, such as merging tokens, gets one. An import points
downwards in this list: an idea imports parts, backbones and trunks, never another idea.
"""
