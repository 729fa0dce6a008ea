"""Controls: what a method must beat before its gain counts as that of its decisions.

    dense          everything runs: every ratio is relative to it
    shrunk_dense   a smaller dense model at the same FLOPs
    random_skip    another method with random decisions at the same budget
    random_tokens  as many tokens as a token reduction keeps, drawn at random
    downsample     the dense model on smaller images
    oracle         another method with the best decisions in hindsight, an upper bound

A further control goes here if it answers "better than what?" and proposes nothing itself; one that
wraps another method defines `inner` and `wrap` (see `random_skip`).
"""
