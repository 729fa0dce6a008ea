"""Depth that depends on the input: exits, skipped blocks, blocks over few tokens."""
