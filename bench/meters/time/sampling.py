"""Balanced batches: sample indices such that every sample occurs equally often.

Whole seeded permutations are concatenated and cut into batches, as MLPerf's LoadGen does for inputs
of unequal cost. Repeating one input would make an input-dependent model seem many times faster or
slower than it is, and a ragged last batch would weigh its samples differently.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def balanced_batches(num_samples: int, batch_size: int, *, seed: int = 0) -> Tensor:
    """Sample indices [num_batches, batch_size] in which every sample occurs equally often.

    The fewest permutations that fill whole batches: batch_size / gcd(num_samples, batch_size) of
    them. They depend on `seed`, and the first permutation not on the batch size. Raises ValueError
    unless both numbers are positive.
    """
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"cannot draw batches of {batch_size} from {num_samples} samples")
    repeats = batch_size // math.gcd(num_samples, batch_size)
    # One generator for all permutations: equal seeds must give equal batches in every process.
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(num_samples, generator=generator) for _ in range(repeats)]
    return torch.cat(order).reshape(-1, batch_size)
