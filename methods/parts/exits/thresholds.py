"""Thresholds of confidence at which elements leave, found for a budget on held-out data."""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = 2.0  # a threshold that no probability reaches


def find_threshold(confidence: Tensor, shares: Tensor, budget: float) -> float:
    """The largest threshold at which the mean share of the work stays within `budget`.

    `confidence` [exits, N]: of the inner exits for each of N elements; `shares` [exits + 1]: of the
    work done when leaving at each exit, increasing. Thresholds are halfway between two
    confidences, so that rounding flips no decision; with 0, the lowest, everything leaves at the
    first exit.
    """
    values = confidence.flatten().sort().values
    steps = torch.linspace(0, len(values) - 2, 512).long()  # 512 quantiles are fine enough
    halfway = (values[steps] + values[steps + 1]) / 2
    candidates = [0.0, *halfway.tolist(), NEVER]  # increasing
    low, high = 0, len(candidates) - 1  # bisection: the mean share grows with the threshold
    while low < high:
        middle = (low + high + 1) // 2  # rounded up, or low = middle would never advance
        if mean_share(confidence, shares, candidates[middle]) <= budget:
            low = middle
        else:
            high = middle - 1
    return candidates[low]


def mean_share(confidence: Tensor, shares: Tensor, threshold: float) -> float:
    """Mean share of the work under a threshold; shapes as in `find_threshold`."""
    sure = torch.cat([confidence >= threshold, torch.ones_like(confidence[:1]) > 0])  # last: always
    return float(shares.to(confidence)[sure.int().argmax(0)].mean())  # argmax: the first sure exit
