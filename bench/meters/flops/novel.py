"""Inputs that a model never got, and that are like those it got.

What a model remembers (from training, calibration, evaluation or an earlier count) costs it nothing
the next time. Samples of any split may be remembered; mixtures of two of them are new.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bench.types import Batch

BLEND = 0.1  # of the neighbour in numbers: enough to differ for every cache, too little to be odd


def make_novel(batch: Batch) -> Batch:
    """Every sample mixed with its neighbour; a single one with itself, shifted.

    Numbers are blended, 9 : 1. Of symbols [B, T] one half comes from the neighbour, the second half
    in even rows and the first in odd ones, so that neither end of a sequence gives it away; padding
    stays where it is.
    """
    mask = batch.mask
    changed = {"inputs": _mixed(batch.inputs, mask)}
    if batch.decoder_inputs is not None:
        changed["decoder_inputs"] = _mixed(batch.decoder_inputs, None)
    return replace(batch, **changed)


def _mixed(values: Tensor, mask: Tensor | None) -> Tensor:
    dim = 0 if len(values) > 1 else -1
    neighbour = values.roll(1, dim)
    if values.is_floating_point():
        return (1 - BLEND) * values + BLEND * neighbour
    length = values.shape[1] if values.dim() > 1 else 1
    is_second = torch.arange(length, device=values.device) >= length // 2  # [T]
    is_odd = torch.arange(len(values), device=values.device) % 2 == 1  # [B]
    taken = is_second[None] ^ is_odd[:, None]  # [B, T]
    if mask is not None and mask.shape == taken.shape:
        taken = taken & mask & mask.roll(1, dim)  # real tokens for real tokens
    return torch.where(taken.view(*taken.shape, *[1] * (values.dim() - 2)), neighbour, values)
