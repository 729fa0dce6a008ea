"""Branches: several alternatives of different cost, one of which runs for each input.

    branches   feed-forward layers of several widths, chosen per sample or per token

A further choice among alternatives (slimmable widths, resolutions, kernels) is one file here. Many
equal alternatives are experts.
"""
