"""Equal issue: which samples go into which batch, so that each is issued equally often.

As MLPerf's LoadGen does for inputs of unequal cost: whole seeded permutations one after the other,
cut into batches. Repeating one input would make an input-dependent model many times faster or
slower than it is, and a ragged last batch would weigh its samples differently.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def balanced_batches(num_samples: int, batch_size: int, *, seed: int = 0) -> Tensor:
    """Sample indices [num_batches, batch_size] in which every sample stands equally often.

    The fewest permutations that fill whole batches: batch_size / gcd(num_samples, batch_size) of
    them. They depend on `seed`, and the first permutation not on the batch size. Raises ValueError
    unless both numbers are positive.
    """
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"cannot issue {num_samples} samples in batches of {batch_size}")
    repeats = batch_size // math.gcd(num_samples, batch_size)
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(num_samples, generator=generator) for _ in range(repeats)]
    return torch.cat(order).reshape(-1, batch_size)
