"""Work on the running tokens of a batch alone, which attend to one another only.

Tokens are packed for the work and put back afterwards; the others stay bit for bit. Nothing is
called without a token, and samples without one take no part. Not for encoder-decoders.
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
        with region("expert"):
            new = work(state.with_x(state.x.flatten(0, 1)[None]), _everything(live))
        return state.changed(x=new.x.view_as(state.x), aux_loss=new.aux_loss)
    with region("dispatch"):
        alone = len(counts) == 1
        selection = select_running(live) if alone else select_by_length(live, counts)
    return _work_on_selection(state, selection, work)


def _everything(live: Tensor) -> Selection:
    """All tokens of a frame shaped like `live` [B, T]."""
    tokens = torch.arange(live.shape[1], device=live.device).expand_as(live)
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
