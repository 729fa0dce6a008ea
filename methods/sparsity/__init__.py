"""Sparsity: only the neurons that matter for a token run.

    topk_ffn   the k best of a feed-forward layer's blocks of neurons, chosen by a predictor

A further method that leaves out neurons, heads or weights inside a layer is one file here.
"""
