"""Adaptive computation time (Graves 2016): a token halts once its probabilities add up to one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 0.01  # a token halts at 1 - EPSILON, so that one probability near 1 is enough


class Halting(NamedTuple):
    """How far every token of a frame [B, T] has come."""

    live: Tensor  # bool: the next block runs on it
    total: Tensor  # probabilities added up, by which it decides
    left: Tensor  # 1 - weights given to its states so far; 0 once it has halted


def begin(live: Tensor) -> Halting:
    """Before the first block, which runs on the tokens `live` [B, T] bool."""
    return Halting(live, torch.zeros_like(live, dtype=torch.float32), live.float())


def advance(at: Halting, live: Tensor, score: Tensor, total: Tensor) -> Halting:
    """After a block: tokens go on where `live`, the others leave with all weight that is left.

    `score` [B, T]: the halting probabilities of the block, which are the weights of its states;
    `total`: the sum that decided.
    """
    return Halting(live, total, torch.where(live, (at.left - score).clamp_min(0), 0.0))
