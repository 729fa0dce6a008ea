"""Ragged tokens: which ones run, gathered into a rectangle, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.backbone.trunk import State


def compact_tokens(run: Tensor) -> tuple[Tensor, Tensor | None]:
    """Indices of the running tokens of each sample, padded to the longest sample.

    `run` [B, T] bool -> tokens [B, K], K the largest number of running tokens: a sample's running
    tokens in order, then others as padding; and valid [B, K] bool, false for padding, None where
    there is none. Waits for the device once.
    """
    counts = run.sum(1)
    fewest, most = (int(count) for count in torch.aminmax(counts))
    tokens = run.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    if fewest == most:
        return tokens, None
    return tokens, torch.arange(most, device=run.device) < counts[:, None]


def put_back(state: State, tokens: Tensor, new: Tensor, valid: Tensor | None = None) -> State:
    """`state` with `new` [B, K, D] in the places `tokens` [B, K]; padding stays as it was."""
    wide = tokens[..., None].expand(-1, -1, new.shape[-1])
    if valid is not None:
        new = torch.where(valid[..., None], new, state.x.gather(1, wide))
    return replace(state, x=state.x.scatter(1, wide, new))


def linear_flops(module: nn.Module) -> int:
    """FLOPs (2 x MAC) that the linear layers inside `module` spend on one token."""
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
