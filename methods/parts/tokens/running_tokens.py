"""Work on the running tokens of a batch alone, which attend to one another only.

Tokens are packed for the work and put back afterwards; the others stay bit for bit. Nothing is
called without a token, and samples without one take no part. With a cache, running tokens also
attend to the earlier ones that ran, and only theirs are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.routing import region
from methods.trunk.selection import Selection, run_block, select_by_length, select_running
from methods.trunk.state import State, flat_places

Work = Callable[[State, Selection], State]  # packed tokens, and where they are -> new state


def run_blocks(blocks: Iterable[Any], state: State, live: Tensor) -> State:
    """`state` after blocks on the tokens where `live` [B, T] bool is true."""
    return work_on(state, live, partial(_through, list(blocks)))


def run_selected(blocks: Iterable[Any], state: State, selection: Selection) -> State:
    """`state` after blocks on the tokens of `selection`, of which there is one at least."""
    return _work_on_selection(state, selection, partial(_through, list(blocks)))


def num_held(block: Any, state: State) -> Tensor | None:
    """Earlier tokens in the cache of `block` to which a new one also attends, [n].

    None unless one token comes alone: a prompt's pairs are those of its own tokens.
    """
    if state.cache is None or state.x.shape[1] > 1:
        return None
    return state.cache.layer(block.attention).held(state.index, state.x.device)


def work_on(state: State, live: Tensor, work: Work) -> State:
    """`state` after `work` on the tokens where `live` [B, T] bool is true.

    `work` gets them packed, x [1, N, D], positions and mask [n, K] of the n samples that have any
    (`selection.samples`; None: all).
    """
    with region("dispatch"):
        counts: list[int] = live.sum(1).tolist()  # waits for the device, once for all samples
    if max(counts) == 0:
        return state
    if min(counts) == live.shape[1]:  # nothing to gather: as fast as without a gate
        return _work_on_everything(state, work)
    if state.cache is not None and live.shape[1] == 1:
        return _work_on_samples(state, live[:, 0].nonzero().flatten(), work)
    with region("dispatch"):
        # A cache appends the tokens of all samples together: none may be in a bucket of its own.
        together = len(counts) == 1 or state.cache is not None
        selection = select_running(live) if together else select_by_length(live, counts)
    return _work_on_selection(state, selection, work)


def _work_on_everything(state: State, work: Work) -> State:
    with region("expert"):
        everything = _everything(state.x[..., 0])
        new = work(state.with_x(state.x.flatten(0, 1)[None]), everything)
    return state.changed(x=new.x.view_as(state.x), aux_loss=new.aux_loss)


def _work_on_samples(state: State, rows: Tensor, work: Work) -> State:
    """`state` after `work` on the only token of the samples `rows` [n]."""
    with region("dispatch"):
        picked = state.select(rows)  # x [n, 1, D]
    new = _work_on_everything(picked, work)
    with region("combine"):
        return state.with_x(state.x.index_copy(0, rows, new.x.to(state.x.dtype)))


def _everything(live: Tensor) -> Selection:
    """All tokens of a frame [B, T] shaped like `live`."""
    tokens = torch.arange(live.shape[1], device=live.device).expand(live.shape)
    return Selection(tokens, flat_places(tokens, live.shape[1]))


def _work_on_selection(state: State, selection: Selection, work: Work) -> State:
    with region("dispatch"):
        picked = selection.take(state)  # x [1, N, D], positions and mask [n, K]
        if selection.valid is not None:
            real = selection.valid if picked.mask is None else picked.mask & selection.valid
            picked = picked.changed(mask=real)
    with region("expert"):
        new = work(picked, selection)
    with region("combine"):
        # Work may have computed in autocast's dtype; index_copy requires equal ones.
        x = selection.put(state.x, new.x.to(state.x.dtype))
    return state.changed(x=x, aux_loss=new.aux_loss)


def _through(blocks: list[Any], state: State, selection: Selection) -> State:
    """The packed state after each block in turn."""
    for block in blocks:
        new = run_block(block, state, selection)
        state = state.with_x(new.x)  # mask and positions of the tokens are still the same
        state.aux_loss = new.aux_loss
    return state
