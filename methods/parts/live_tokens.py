"""Tokens that go on and tokens that left: running, filling and keeping parts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench import routing
from methods.backbone.transformer import attention_mask
from methods.trunk.selection import Selection, run_block, select_running
from methods.trunk.state import State


def advance(blocks: Sequence[Any], state: State, asking: Selection) -> tuple[State, State]:
    """Run blocks for the tokens that ask: the whole state [n, T, D], and theirs alone [1, N, D]."""
    if len(asking.places) == state.x.shape[0] * state.x.shape[1]:
        for block in blocks:
            state = block(state)
        return state, replace(state, x=state.x.flatten(0, 1)[None])
    mask: Tensor | None = None  # the same for all of these blocks
    for block in blocks:
        with routing.region("dispatch"):
            queries = asking.take(state)  # x [1, N, D], positions and mask [n, K]
            if mask is None and state.cache is None:
                mask = _additive(attention_mask(queries, state, causal=True), state.x.dtype)
        packed = run_block(block, queries, asking, context=state, mask=mask)
        with routing.region("combine"):
            state = replace(state, x=asking.put(state.x, packed.x))
    return state, packed


def last_tokens(live: Tensor, state: State) -> tuple[Selection, State]:
    """The last token of each sample where it is `live` [n, T], packed: nobody reads the others."""
    only = torch.zeros_like(live)
    only[:, -1] = live[:, -1]
    asking = select_running(only)
    return asking, asking.take(state)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """0 where `mask` is true, else -inf: attention would convert it again in every block."""
    assert mask is not None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def fill(logits: Tensor, state: State, asking: Selection, found: Tensor) -> Tensor:
    """`logits` [B, T, C] with `found` [N, C] for the tokens that asked, in the original frame."""
    num_samples, length = state.x.shape[:2]
    if len(asking.places) == num_samples * length and state.index is None:
        return found.unflatten(0, (num_samples, length))
    places = asking.places
    if state.index is not None:
        places = state.index[places // length] * length + places % length
    return logits.flatten(0, 1).index_copy(0, places, found).view_as(logits)


def keep(live: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where live, else `old`; `live` [B] or [B, T] for tensors with more dimensions."""
    return torch.where(live.view(*live.shape, *[1] * (new.dim() - live.dim())), new, old)
