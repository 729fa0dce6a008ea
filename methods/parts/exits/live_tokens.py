"""Running the tokens that have not left, and putting their results back into the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench import routing
from methods.trunk.block import attention_mask
from methods.trunk.selection import Selection, run_block, select_running
from methods.trunk.state import State


def advance(blocks: Sequence[Any], state: State, querying: Selection) -> tuple[State, State]:
    """Run blocks for the querying tokens: the whole state [n, T, D], and theirs alone [1, N, D]."""
    if len(querying.places) == state.x.shape[0] * state.x.shape[1]:
        for block in blocks:  # all tokens query: nothing to gather
            state = block(state)
        return state, replace(state, x=state.x.flatten(0, 1)[None])
    mask: Tensor | None = None  # the same for all of these blocks
    for block in blocks:
        with routing.region("dispatch"):
            queries = querying.take(state)  # x [1, N, D], positions and mask [n, K]
            if mask is None and state.cache is None:
                mask = _additive(attention_mask(queries, state, causal=True), state.x.dtype)
        # All tokens stay visible as context: those that have left keep their last state.
        packed = run_block(block, queries, querying, context=state, mask=mask)
        with routing.region("combine"):
            state = replace(state, x=querying.put(state.x, packed.x))
    return state, packed


def last_tokens(live: Tensor, state: State) -> tuple[Selection, State]:
    """The last token of each sample where it is `live` [n, T], packed: no other is predicted."""
    only = torch.zeros_like(live)
    only[:, -1] = live[:, -1]
    querying = select_running(only)
    return querying, querying.take(state)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """0 where `mask` is true, else -inf: attention would convert it again in every block."""
    assert mask is not None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def fill(logits: Tensor, state: State, querying: Selection, found: Tensor) -> Tensor:
    """`logits` [B, T, C] with `found` [N, C] for the querying tokens, in the original frame."""
    num_samples, length = state.x.shape[:2]
    if len(querying.places) == num_samples * length and state.index is None:
        return found.unflatten(0, (num_samples, length))  # the first exit: all tokens are there
    places = querying.places
    if state.index is not None:
        # Places count in the compacted batch; move each to its original sample's row.
        places = state.index[places // length] * length + places % length
    return logits.flatten(0, 1).index_copy(0, places, found).view_as(logits)


def keep(live: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where live, else `old`; `live` [B] or [B, T] for tensors with more dimensions."""
    return torch.where(live.view(*live.shape, *[1] * (new.dim() - live.dim())), new, old)
