"""Sparse weights: which elements are stored, how they change in training, how they are applied."""
