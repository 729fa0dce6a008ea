"""Moving: gather what runs, compute it, scatter it back. Pure functions.

Three ways:

    compaction       where_kept            rows that run, and the others as they were
                     replace_rows          the same for indices that are known before
    fixed capacity   within_capacity       at most so many rows to each group, the rest dropped
    sort by group    mix                   rows to experts: y_n = sum_g weight_ng f_g(x_n)

Nothing is ever called with an empty batch. The work names its regions (dispatch, expert, combine).
`mix` has three interchangeable backends: `loop` (one call per group that has rows; any dtype; the
reference), `grouped` (sorted rows, one grouped GEMM per weight) and `dense_masked` (every
group on every row, then weighted: the test oracle, which skips nothing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from bench.routing import region
from methods.parts.weights.grouped_gemm import (
    can_group as can_group,  # plugins import both from here
)
from methods.parts.weights.grouped_gemm import grouped_linear as grouped_linear
from methods.trunk.state import put_rows

BACKENDS = ("auto", "loop", "grouped", "dense_masked")
# Mean rows per group and thread from which the loop wins: docs/explanation/kernels.md.
LOOP_ROWS = 256


class Groups(Protocol):
    """G functions of rows, called one by one where they have rows."""

    def each(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The functions, each of rows [n, ...] with n > 0 to as many rows."""
        ...


class Stacked(Groups, Protocol):
    """Groups of equal shape, which can also be computed together."""

    def can_sort(self, rows: Tensor) -> bool:
        """Whether `run_sorted` serves rows of this kind (dtype, widths)."""
        ...

    def run_sorted(self, rows: Tensor, order: Order) -> Tensor:
        """Every group on its part of `rows` [P, D], which are sorted by group; P > 0."""
        ...


class Order(NamedTuple):
    """Running (row, group) pairs sorted by group, rows ascending inside a group."""

    rows: Tensor  # [P] int64: the row of each pair
    groups: Tensor  # [P] int64: its group
    ends: Tensor  # [G] int32: where each group's pairs end


# Compaction


def where_kept(f: Callable[[Tensor | None], Tensor], x: Tensor, keep: Tensor) -> Tensor:
    """`x` [N, ...] with f(rows) in the rows where `keep` [N] is true; the others stay bit for bit.

    `rows` [n] are their indices, None where all are kept; with no row f is not called. Waits for
    the device once, because n is data.
    """
    with region("dispatch"):
        rows = keep.nonzero().flatten()  # [n]
    return replace_rows(f, x, rows)


def replace_rows(f: Callable[[Tensor | None], Tensor], x: Tensor, rows: Tensor) -> Tensor:
    """`where_kept` for rows [n] that are known already, without waiting for the device."""
    if len(rows) == 0:
        return x
    if len(rows) == len(x):  # nothing to gather: as fast as without a gate
        return f(None)
    new = f(rows)
    with region("combine"):
        # f may have computed in autocast's dtype; index_copy requires equal dtypes.
        return put_rows(x, rows, new.to(x.dtype))


# Fixed capacity


def capacity(num_rows: int, num_groups: int, top_k: int, factor: float) -> int:
    """Rows that one group may take: ceil(factor x rows x top_k / groups), at least 1 (GShard)."""
    return max(1, math.ceil(factor * num_rows * top_k / num_groups))


def within_capacity(
    choices: Tensor,
    num_groups: int,
    limit: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    priority: Tensor | None = None,
) -> Tensor:
    """The choices that find a place when a group takes `limit` rows: [B, T, K] -> bool [B, T, G].

    `choices`: each token's first, second, ... group. All first choices are served before any
    second, in order of tokens (Lepikhin et al. 2020, GShard, algorithm 1). `causal`: position by
    position instead, all samples' first choices of a position, then their second ones, so that no
    token loses its place to a later one. `priority` [B, T]: not in order of tokens, but the highest
    first (Riquelme et al. 2021, V-MoE, algorithm 2). Tokens where `mask` [B, T] is false take no
    place. Raises ValueError for `priority` with `causal`.
    """
    if causal and priority is not None:
        raise ValueError("a priority compares a token with later ones: not causal")
    num_samples, num_tokens, _ = choices.shape
    if mask is not None:
        choices = choices.masked_fill(~mask[..., None], num_groups)  # a group of its own
    tokens = torch.arange(num_samples * num_tokens, device=choices.device)
    rows = tokens.view(num_samples, num_tokens, 1).expand_as(choices)  # [B, T, K]
    order = (1, 2, 0) if causal else (2, 0, 1)  # T, K, B: by position; K, B, T: by rank of choice
    groups, rows = (each.permute(order).flatten() for each in (choices, rows))
    if priority is not None:  # the same order of tokens for every rank of choice
        first = priority.flatten().argsort(descending=True, stable=True)
        groups, rows = (each.view(-1, len(first))[:, first].flatten() for each in (groups, rows))
    # One stable sort instead of GShard's loop: inside a group it keeps the order of service, and
    # the distance to the group's first entry is the place in its queue.
    queue = groups.argsort(stable=True)
    groups, rows = groups[queue], rows[queue]
    number = torch.arange(len(queue), device=queue.device)
    rank = number - torch.searchsorted(groups, groups)
    served = (rank < limit) & (groups < num_groups)
    places = rows * num_groups + groups
    run = torch.zeros(len(tokens) * num_groups, dtype=torch.bool, device=choices.device)
    run[places[served]] = True
    return run.view(num_samples, num_tokens, num_groups)


# Sort by group


def sort_by_group(run: Tensor) -> Order:
    """The true entries of `run` [N, G] as pairs sorted by group."""
    # nonzero is in row-major order: of the transpose that is by group. No sort, one wait.
    groups, rows = run.t().nonzero().unbind(1)
    return Order(rows, groups, run.sum(0).cumsum(0, dtype=torch.int32))


def mix(
    x: Tensor, run: Tensor, weights: Tensor | None, groups: Groups, backend: str = "auto"
) -> Tensor:
    """sum_g weights[n, g] f_g(x[n]) over the g where run[n, g]: `x` [N, ...] -> [N, ...].

    `run` bool [N, G], `weights` [N, G] (None: all 1). A row without a group gives zero. Groups
    without rows are not called, except by `dense_masked`. Raises ValueError for an unknown backend,
    and where `grouped` cannot serve the rows.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: one of {', '.join(BACKENDS)}")
    if backend == "dense_masked":
        weights = run.to(x.dtype) if weights is None else torch.where(run, weights, 0.0)
        return _mix_dense(x, weights, groups)
    with region("dispatch"):
        order = sort_by_group(run)  # P pairs
        weight = None
        if weights is not None:
            weight = weights[order.rows, order.groups].to(x.dtype)  # [P]
            weight = weight.view(-1, *[1] * (x.dim() - 1))
    if len(order.rows) == 0:
        return torch.zeros_like(x)
    stacked = _as_stacked(groups, x)
    if backend == "auto" and stacked is not None and not _prefers_loop(x, order):
        backend = "grouped"
    if backend != "grouped":
        return _mix_loop(x, order, weight, groups)
    if stacked is None:  # an explicit backend never falls back silently: it is what is measured
        raise ValueError(f"no grouped GEMM for rows {tuple(x.shape[1:])} of {x.dtype}; use loop")
    return _mix_sorted(x, order, weight, stacked)


def _as_stacked(groups: Groups | Stacked, x: Tensor) -> Stacked | None:
    """`groups` if they can be computed together on rows like those of `x`, else None."""
    can_sort = getattr(groups, "can_sort", None)
    return cast(Stacked, groups) if can_sort is not None and can_sort(x) else None


def _prefers_loop(x: Tensor, order: Order) -> bool:
    """On a CPU the loop keeps a group's hidden rows in cache, but starts threads for every op."""
    enough = LOOP_ROWS * torch.get_num_threads() * len(order.ends)
    return x.device.type == "cpu" and len(order.rows) >= enough


def _mix_loop(x: Tensor, order: Order, weight: Tensor | None, groups: Groups) -> Tensor:
    with region("dispatch"):
        ends = order.ends.tolist()  # waits for the device: the loop needs lengths
    out = torch.zeros_like(x)
    for f, begin, end in zip(groups.each(), [0, *ends], ends, strict=False):
        if begin == end:
            continue
        with region("dispatch"):
            rows, scale = order.rows[begin:end], None if weight is None else weight[begin:end]
            inputs = x.index_select(0, rows)  # [n, ...]
        with region("expert"):
            result = f(inputs)
        with region("combine"):  # no row twice in one group: the sum's order is fixed
            out.index_add_(0, rows, _weigh(result, scale).to(x.dtype))
    return out


def _mix_sorted(x: Tensor, order: Order, weight: Tensor | None, groups: Stacked) -> Tensor:
    with region("dispatch"):
        rows = x.index_select(0, order.rows)  # [P, ...]
    with region("expert"):
        result = groups.run_sorted(rows, order)
    with region("combine"):
        return torch.zeros_like(x).index_add_(0, order.rows, _weigh(result, weight).to(x.dtype))


def _weigh(result: Tensor, weight: Tensor | None) -> Tensor:
    return result if weight is None else result * weight


def _mix_dense(x: Tensor, weights: Tensor, groups: Groups) -> Tensor:
    """Every group on every row: shares no gather or scatter with the others, which it checks."""
    out = torch.zeros_like(x)
    for f, weight in zip(groups.each(), weights.unbind(1), strict=True):
        with region("expert"):
            result = f(x)
        with region("combine"):
            out = out + result * weight.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return out
