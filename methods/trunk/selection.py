"""Ragged token selections: gathered for attention, packed for everything else.

Attention's products need a sample's tokens side by side, padded to the longest sample [B, K]. All
other layers, its projections too, work on one token at a time and get the N real ones in one row
[1, N], without padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.trunk.state import State, flat_places

FEWEST, SHORT = 4, 0.75  # samples of a bucket; the next one begins at this share of its length


@dataclass(frozen=True)
class Bucket:
    """The samples `begin` to `end` of a selection, with at most `length` tokens each.

    `first` to `last`: their rows of packed tokens; `rows`: the places of those in a flattened
    [end - begin, `length`], None where there is no padding.
    """

    begin: int
    end: int
    length: int
    first: int
    last: int
    rows: Tensor | None

    def pad(self, packed: Tensor) -> Tensor:
        """Its tokens of `packed` [1, N, C] as a rectangle with zeros in the padding."""
        shape = (self.end - self.begin, self.length)
        return _pad(packed[0, self.first : self.last], shape, self.rows)

    def pack(self, x: Tensor) -> Tensor:
        """The real tokens of the rectangle `x`, one by one."""
        rows = x.flatten(0, 1)
        return rows if self.rows is None else rows.index_select(0, self.rows)

    def mask(self, mask: Tensor) -> Tensor:
        """Its part of a mask that broadcasts to [B, heads, K, K]."""
        mask = mask if len(mask) == 1 else mask[self.begin : self.end]
        return mask[..., : self.length, : self.length]


@dataclass(frozen=True)
class Selection:
    """Some tokens of each sample.

    `tokens` [B, K]: a sample's tokens in order, then others as padding. `places` [N]: where the
    real ones are in a flattened [B, T]. `valid` [B, K] bool and `rows` [N], the places of the real
    ones in a flattened [B, K], are None where there is no padding. `samples` [n]: the samples whose
    tokens are in the rows of all these, [n, K] then; None: all in order. `buckets`: those rows in
    parts, each with less padding.
    """

    tokens: Tensor
    places: Tensor
    valid: Tensor | None = None
    rows: Tensor | None = None
    samples: Tensor | None = None
    buckets: tuple[Bucket, ...] = ()

    def take(self, state: State) -> State:
        """These tokens of `state`: x packed [1, N, D], positions, mask and sizes padded [B, K]."""
        return state.take(self.tokens, self.places, self.samples)

    def pack(self, x: Tensor) -> Tensor:
        """The real tokens of `x` [B, K, D], in one row [1, N, D]."""
        rows = x.flatten(0, 1)  # [B K, D]
        return (rows if self.rows is None else rows.index_select(0, self.rows))[None]

    def pad(self, packed: Tensor) -> Tensor:
        """`packed` [1, N, C] as a rectangle [B, K, C] with zeros in the padding."""
        return _pad(packed[0], self.tokens.shape, self.rows)

    def put(self, x: Tensor, packed: Tensor) -> Tensor:
        """`x` [B, T, D] with `packed` [1, N, D] in its places; all else stays bit for bit."""
        return x.flatten(0, 1).index_copy(0, self.places, packed[0]).view_as(x)


def _pad(rows: Tensor, shape: tuple[int, ...], places: Tensor | None) -> Tensor:
    """`rows` [N, C] at `places` of a rectangle [*shape, C]; None: they fill it."""
    if places is None:
        return rows.view(*shape, rows.shape[1])
    # Zeros, not uninitialised memory: NaN in the padding would survive a mask of -inf.
    rectangle = rows.new_zeros(shape[0] * shape[1], rows.shape[1])
    return rectangle.index_copy(0, places, rows).view(*shape, rows.shape[1])


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


def select_by_length(run: Tensor, counts: list[int]) -> Selection:
    """As `select_running`, of the samples with a token, by falling number of them, in buckets.

    `counts`: how many of `run` [B, T] are true for each sample, one at least altogether. Attention
    pads each bucket to its own longest sample.
    """
    order = sorted((i for i, count in enumerate(counts) if count), key=lambda i: -counts[i])
    samples = torch.tensor(order, device=run.device)
    lengths = [counts[i] for i in order]
    # As in `select_running`; of samples of one length the order stays.
    tokens = run[samples].byte().argsort(dim=1, descending=True, stable=True)[:, : lengths[0]]
    places = flat_places(tokens, run.shape[1], samples)
    if lengths[0] == lengths[-1]:
        return Selection(tokens, places, samples=samples)
    number = torch.tensor(lengths, device=run.device)[:, None]
    valid = torch.arange(lengths[0], device=run.device) < number  # [n, K]
    rows = valid.flatten().nonzero().flatten()
    places = places.index_select(0, rows)
    return Selection(tokens, places, valid, rows, samples, tuple(_buckets(valid, lengths)))


def _buckets(valid: Tensor, lengths: list[int]) -> Iterator[Bucket]:
    """Parts of samples that are sorted by falling length, `valid` [n, K]."""
    begin = first = 0
    for end in range(1, len(lengths) + 1):
        is_last = end == len(lengths)
        if not is_last and (end - begin < FEWEST or lengths[end] > SHORT * lengths[begin]):
            continue
        length, last = lengths[begin], first + sum(lengths[begin:end])
        padded = last - first < length * (end - begin)
        rows = valid[begin:end, :length].flatten().nonzero().flatten() if padded else None
        yield Bucket(begin, end, length, first, last, rows)
        begin, first = end, last


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
    fed: State = block.feed(run_mix(block, state, selection, context, mask))
    return fed


def run_mix(
    block: Any,
    state: State,
    selection: Selection,
    context: State | None = None,
    mask: Tensor | None = None,
    **keywords: Any,
) -> State:
    """The attention half alone, as in `run_block`; `keywords` are further ones of `Block.mix`.

    Of the other fields of the result none has a shape of tokens.
    """
    if selection.valid is not None and getattr(block, "takes_selection", False):
        mixed = block.mix(state, context, mask, selection, **keywords)
        x = mixed.x  # [1, N, D]
    else:
        padded = state.with_x(selection.pad(state.x))  # [B, K, D]
        mixed = block.mix(padded, context, mask, **keywords)
        x = selection.pack(mixed.x)
    # The other fields are [B, K] and do not fit packed tokens; without padding `feed` needs none.
    packed: State = mixed.changed(x=x, positions=None, mask=None, routed=None, sizes=None)
    return packed
