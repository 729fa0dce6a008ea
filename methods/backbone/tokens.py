"""Ragged tokens: which ones run, gathered into a rectangle, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def pack(x: Tensor, valid: Tensor | None) -> Tensor:
    """The valid tokens of `x` [B, K, D] in one row [1, N, D], for work that needs no neighbours."""
    return x if valid is None else x[valid][None]


def unpack(packed: Tensor, valid: Tensor | None) -> Tensor:
    """Undo `pack`: [1, N, E] -> [B, K, E] with zeros in the padding."""
    if valid is None:
        return packed
    x = packed.new_zeros(*valid.shape, packed.shape[-1])
    return x.masked_scatter(valid[..., None], packed)


def run_block(
    block: Any, state: State, valid: Tensor | None, context: State | None = None
) -> State:
    """`block` on padded tokens; the padding takes part in attention only, as queries nobody reads.

    With `context`, the tokens of `state` look at those of `context`.
    """
    mixed = block.mix(state, context)
    if valid is None:
        return block.feed(mixed)
    fed = block.feed(replace(mixed, x=pack(mixed.x, valid), positions=None, mask=None, sizes=None))
    return replace(mixed, x=unpack(fed.x, valid), aux_loss=fed.aux_loss)


def linear_flops(module: nn.Module) -> int:
    """FLOPs (2 x MAC) that the linear layers inside `module` spend on one token."""
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
