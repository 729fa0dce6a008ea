"""Branches: several alternatives of different cost, one of which runs for each input.

    branches     feed-forward layers of several widths, chosen per sample or per token
    slimmable    one network at several widths, chosen once or per sample
    resolution   images of several sizes, chosen per sample
    condconv     kernels mixed per sample: the counter-example, which skips nothing

A further choice among alternatives is one file here. Many equal alternatives are experts.
"""
