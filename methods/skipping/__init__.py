"""Skipping: depth that depends on the input.

    early_exit          samples or tokens leave at the first head that is sure
    skip_blocks         a gate before each block, per sample
    mixture_of_depths   every second block works on few tokens, the others pass it
    layer_skip          the first blocks draft text, all of them verify it

A further method that leaves out whole blocks or halves of blocks (per sample, per token, by
halting) is one file here; the model with exit heads is in `methods.parts`.
"""
