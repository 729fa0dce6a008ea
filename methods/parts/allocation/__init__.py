"""Compute that a function of the input allocates: to the tokens, or to the samples, of a block."""
