"""Moving: bring what runs together, compute it, bring it back. Pure functions.

Three ways:

    compaction       where_kept            rows that run, and the others as they were
    fixed capacity   within_capacity       at most so many rows to each group, the rest dropped
    sort by group    mix                   rows to experts: y_n = sum_g weight_ng f_g(x_n)

Nothing is ever called with an empty batch. The work names its regions (dispatch, expert, combine).
`mix` has three interchangeable backends: `loop` (one call per group that has rows; any dtype; the
reference), `grouped` (sorted rows, one grouped GEMM per weight) and `dense_masked` (every
group on every row, then weighted: the oracle of tests, which skips nothing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.routing import region

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
        """Whether `sorted` serves rows of this kind (dtype, widths)."""
        ...

    def sorted(self, rows: Tensor, order: Order) -> Tensor:
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

    `rows` [n] are their indices, None where all are kept; with none f is not called. Waits for the
    device once, because n is data.
    """
    with region("dispatch"):
        rows = keep.nonzero().flatten()
    if len(rows) == 0:
        return x
    if len(rows) == len(x):
        return f(None)
    new = f(rows)
    with region("combine"):
        return x.index_copy(0, rows, new.to(x.dtype))


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
) -> Tensor:
    """Who gets a place where each group takes `limit` rows only: [B, T, K] -> bool [B, T, G].

    `choices`: the group that each token wants first, second, ... All first choices are served
    before any second, in order of tokens (Lepikhin et al. 2020, GShard, algorithm 1). `causal`:
    position by position instead, all samples' first choices of a position, then their second ones,
    so that no token loses its place to a later one. Where `mask` [B, T] is false nobody asks.
    """
    num_samples, num_tokens, _ = choices.shape
    if mask is not None:
        choices = choices.masked_fill(~mask[..., None], num_groups)  # a group of their own
    tokens = torch.arange(num_samples * num_tokens, device=choices.device)
    rows = tokens.view(num_samples, num_tokens, 1).expand_as(choices)
    order = (1, 2, 0) if causal else (2, 0, 1)
    wanted, rows = (each.permute(order).flatten() for each in (choices, rows))
    queue = wanted.argsort(stable=True)  # by group, each in the order of service
    wanted, rows = wanted[queue], rows[queue]
    number = torch.arange(len(queue), device=queue.device)
    rank = number - torch.searchsorted(wanted, wanted)  # in the queue of its group
    served = (rank < limit) & (wanted < num_groups)
    places = rows * num_groups + wanted
    run = torch.zeros(len(tokens) * num_groups, dtype=torch.bool, device=choices.device)
    run[places[served]] = True
    return run.view(num_samples, num_tokens, num_groups)


# Sort by group


def sort_by_group(run: Tensor) -> Order:
    """The true entries of `run` [N, G] as pairs sorted by group."""
    groups, rows = run.t().nonzero().unbind(1)
    return Order(rows, groups, run.sum(0).cumsum(0, dtype=torch.int32))


def mix(x: Tensor, run: Tensor, weights: Tensor, groups: Groups, backend: str = "auto") -> Tensor:
    """sum_g weights[n, g] f_g(x[n]) over the g where run[n, g]: `x` [N, ...] -> [N, ...].

    `run` bool [N, G], `weights` [N, G]. A row without a group gives zero. Groups without rows are
    not called, except by `dense_masked`. Raises ValueError for an unknown backend, and where
    `grouped` cannot serve the rows.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: one of {', '.join(BACKENDS)}")
    if backend == "dense_masked":
        return _mix_dense(x, torch.where(run, weights, 0.0), groups)
    with region("dispatch"):
        order = sort_by_group(run)
        weight = weights[order.rows, order.groups]  # [P]
        weight = weight.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    if len(order.rows) == 0:
        return torch.zeros_like(x)
    stacked = _stacked(groups, x)
    if backend == "auto" and stacked is not None and not _prefers_loop(x, order):
        backend = "grouped"
    if backend != "grouped":
        return _mix_loop(x, order, weight, groups)
    if stacked is None:
        raise ValueError(f"no grouped GEMM for rows {tuple(x.shape[1:])} of {x.dtype}; use loop")
    return _mix_sorted(x, order, weight, stacked)


def _stacked(groups: Groups | Stacked, x: Tensor) -> Stacked | None:
    """`groups` if they can be computed together on rows like those of `x`, else None."""
    can_sort = getattr(groups, "can_sort", None)
    return cast(Stacked, groups) if can_sort is not None and can_sort(x) else None


def _prefers_loop(x: Tensor, order: Order) -> bool:
    """On a CPU the loop keeps a group's hidden rows in cache, but starts threads for every op."""
    enough = LOOP_ROWS * torch.get_num_threads() * len(order.ends)
    return x.device.type == "cpu" and len(order.rows) >= enough


def _mix_loop(x: Tensor, order: Order, weight: Tensor, groups: Groups) -> Tensor:
    with region("dispatch"):
        ends = order.ends.tolist()
    out = torch.zeros_like(x)
    for f, begin, end in zip(groups.each(), [0, *ends], ends, strict=False):
        if begin == end:
            continue
        with region("dispatch"):
            rows, scale = order.rows[begin:end], weight[begin:end]
            mine = x.index_select(0, rows)
        with region("expert"):
            result = f(mine)
        with region("combine"):  # no row twice in one group: the sum's order is fixed
            out.index_add_(0, rows, (result * scale).to(x.dtype))
    return out


def _mix_sorted(x: Tensor, order: Order, weight: Tensor, groups: Stacked) -> Tensor:
    with region("dispatch"):
        rows = x.index_select(0, order.rows)  # [P, ...]
    with region("expert"):
        result = groups.sorted(rows, order)
    with region("combine"):
        return torch.zeros_like(x).index_add_(0, order.rows, (result * weight).to(x.dtype))


def _mix_dense(x: Tensor, weights: Tensor, groups: Groups) -> Tensor:
    out = torch.zeros_like(x)
    for f, weight in zip(groups.each(), weights.unbind(1), strict=True):
        with region("expert"):
            result = f(x)
        with region("combine"):
            out = out + result * weight.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return out


# Grouped GEMM


def can_group(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's grouped GEMM takes rows like `x` and `weight` [G, in, out].

    It wants fp32, bf16 or fp16 and rows whose length is a multiple of 16 bytes; on a GPU compute
    capability 8.0; under torch.compile bf16 (torch 2.13).
    """
    dtype = _dtype(x)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if torch.compiler.is_compiling() and dtype != torch.bfloat16:
        return False
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0):
        return False
    return all(size * dtype.itemsize % 16 == 0 for size in weight.shape[1:])


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x_p W_g for the group g of each row: sorted `x` [P, in], `weight` [G, in, out] -> [P, out].

    `ends` [G] int32: where each group's rows end, the last at P > 0. Obeys autocast, which torch's
    op by itself does not.
    """
    dtype = _dtype(x)
    out = F.grouped_mm(x.to(dtype), weight.to(dtype), offs=ends)
    if out.requires_grad:  # its backward refuses expanded gradients such as sum's
        out.register_hook(torch.Tensor.contiguous)
    return out


def _dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
