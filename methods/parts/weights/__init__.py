"""Layers with several sets of weights: experts, mixtures of them, clusters of neurons."""
