"""Sparsity: only the weights or neurons that matter are multiplied.

    rigl         few weights are stored, and training changes which (RigL, SET, Top-KAST)
    threshold    small inputs or gates are taken for 0, without training (TEAL, CATS)
    relu_sparse  ReLU in feed-forward layers, whose zeros are skipped exactly
    topk_ffn     the k best of a feed-forward layer's blocks of neurons, chosen by a predictor

A further method that leaves out neurons, heads or weights inside a layer is one file here.
"""
