"""Ragged token selections: gathered for attention, packed for everything else.

Attention's products need a sample's tokens side by side, padded to the longest sample [B, K]. All
other layers, its projections too, work on one token at a time and get the N real ones in one row
[1, N], without padding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.trunk.state import State, flat_places


@dataclass(frozen=True)
class Selection:
    """Some tokens of each sample.

    `tokens` [B, K]: a sample's tokens in order, then others as padding. `places` [N]: where the
    real ones are in a flattened [B, T]. `valid` [B, K] bool and `rows` [N], the places of the real
    ones in a flattened [B, K], are None where there is no padding.
    """

    tokens: Tensor
    places: Tensor
    valid: Tensor | None = None
    rows: Tensor | None = None

    def take(self, state: State) -> State:
        """These tokens of `state`: x packed [1, N, D], positions, mask and sizes padded [B, K]."""
        return state.take(self.tokens, self.places)

    def pack(self, x: Tensor) -> Tensor:
        """The real tokens of `x` [B, K, D], in one row [1, N, D]."""
        rows = x.flatten(0, 1)  # [B K, D]
        return (rows if self.rows is None else rows.index_select(0, self.rows))[None]

    def pad(self, packed: Tensor) -> Tensor:
        """`packed` [1, N, C] as a rectangle [B, K, C] with zeros in the padding."""
        if self.rows is None:
            return packed[0].unflatten(0, self.tokens.shape)
        # Zeros, not uninitialised memory: NaN in the padding would survive a mask of -inf.
        rectangle = packed.new_zeros(self.tokens.numel(), packed.shape[2])
        return rectangle.index_copy(0, self.rows, packed[0]).unflatten(0, self.tokens.shape)

    def put(self, x: Tensor, packed: Tensor) -> Tensor:
        """`x` [B, T, D] with `packed` [1, N, D] in its places; all else stays bit for bit."""
        return x.flatten(0, 1).index_copy(0, self.places, packed[0]).view_as(x)


def select_running(run: Tensor) -> Selection:
    """The tokens where `run` [B, T] bool is true; K is the longest sample's number of them.

    Waits for the device, because K is data.
    """
    if len(run) == 1:  # nothing to sort or to pad
        places = run[0].nonzero().flatten()
        return Selection(places[None], places)
    counts = run.sum(1)  # [B]
    fewest, most = (int(count) for count in torch.aminmax(counts))  # one wait for both
    # A stable sort of booleans puts selected tokens first and keeps their order; torch sorts bytes,
    # not booleans.
    tokens = run.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    places = flat_places(tokens, run.shape[1])
    if fewest == most:
        return Selection(tokens, places)
    valid = torch.arange(most, device=run.device) < counts[:, None]  # [B, K]
    rows = valid.flatten().nonzero().flatten()  # [N]
    return Selection(tokens, places.index_select(0, rows), valid, rows)


def run_block(
    block: Any,
    state: State,
    selection: Selection,
    context: State | None = None,
    mask: Tensor | None = None,
) -> State:
    """`block` on the selected tokens; `state` is what `selection.take` returns, x [1, N, D].

    `context` and `mask` as in `Block.mix`. A block without `takes_selection` mixes the padded
    rectangle; the padding then takes part as queries whose results are dropped.
    """
    if selection.valid is not None and getattr(block, "takes_selection", False):
        mixed = block.mix(state, context, mask, selection)
        x = mixed.x  # [1, N, D]
    else:
        mixed = block.mix(state.with_x(selection.pad(state.x)), context, mask)  # [B, K, D]
        x = selection.pack(mixed.x)
    # The other fields are [B, K] and do not fit packed tokens; without padding `feed` needs none.
    packed = replace(mixed, x=x, positions=None, mask=None, routed=None, sizes=None)
    fed: State = block.feed(packed)
    return fed
