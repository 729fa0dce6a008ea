"""Means over samples that are drawn from fewer originals: errors are clustered.

A test set of 8,000 distorted digits made of 397 handwritten ones is no sample of 8,000. What two
samples of one original have in common (they are both hard, both are misread) does not average out.
The variance is that of the clusters' sums (Liang and Zeger 1986; Miller 2024, Adding Error Bars to
Evals, equation 4).

    found = clustered_mean(scores_of_method - scores_of_dense, clusters=handwritten_digit)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from bench.statistics.intervals import LEVEL, ROUNDING, Interval

RULE_OF_THREE = 3.0  # 0 events among n: at most 3/n with 95 % confidence


def clustered_mean(
    values: ArrayLike, clusters: ArrayLike | None = None, *, largest: float = 0.0
) -> Interval:
    """The mean of `values` [N] with its 95 % interval.

    `clusters` [N] names each value's original, None where every value is an original of its own.
    Student's t over clusters, with their number minus one as degrees of freedom. `largest`: the
    largest value that is possible. Where all values are equal, so that no spread is seen, other
    values up to it may still occur, in at most three of N (the rule of three). Raises ValueError
    for no value, for values that are not finite, and for another number of clusters than values.
    """
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError("an interval needs at least one value, and finite ones")
    groups = _numbered(clusters, data.size)
    mean, num_groups = float(data.mean()), int(groups.max()) + 1
    if num_groups < 2:
        return Interval(mean, None, None, data.size, "none", "all samples have one original")
    if np.ptp(data) <= ROUNDING * max(1.0, float(np.abs(data).max())):
        half = RULE_OF_THREE * largest / data.size
        return Interval(mean, mean - half, mean + half, data.size, "rule of three")
    sums = np.bincount(groups, weights=data - mean)  # [G]
    variance = num_groups / (num_groups - 1) * float(np.square(sums).sum()) / data.size**2
    half = float(stdtrit(num_groups - 1, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, data.size, f"student t, {num_groups} clusters")


def _numbered(clusters: ArrayLike | None, num_values: int) -> np.ndarray:
    """The clusters as numbers from 0, [N]."""
    if clusters is None:
        return np.arange(num_values)
    names = np.asarray(clusters).reshape(-1)
    if names.size != num_values:
        raise ValueError(f"{num_values} values, but clusters of {names.size}")
    return np.unique(names, return_inverse=True)[1].reshape(-1)
