"""Moving: bring what runs together, compute it, bring it back. Pure functions.

Three ways, each with its inverse:

    compaction         compact / restore       any number of rows, known only at run time
    fixed capacity     take_top / add_back     k tokens of each sample, static shapes
    sort by group      mix                     rows to experts: y_n = sum_g weight_ng f_g(x_n)

Nothing is ever called with an empty batch. The work names its regions (dispatch, expert, combine).
`mix` has three interchangeable backends: `loop` (one call per group that has rows; any dtype; the
reference), `grouped` (sorted rows, one grouped GEMM per weight) and `dense_masked` (every
group on every row, then weighted: the oracle of tests, which skips nothing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.routing import region

BACKENDS = ("auto", "loop", "grouped", "dense_masked")
LOOP_ROWS = 128  # mean rows per group from which the loop wins on a CPU (docs: kernels)


class Groups(Protocol):
    """G functions of rows, applied where their rows are."""

    def each(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The functions, each of rows [n, ...] with n > 0 to as many rows."""
        ...

    def sorted(self, rows: Tensor, order: Order) -> Tensor:
        """Every group on its part of `rows` [P, ...], which are sorted by group; P > 0."""
        ...

    def can_sort(self, rows: Tensor) -> bool:
        """Whether `sorted` serves rows of this kind (dtype, widths)."""
        ...


class Order(NamedTuple):
    """Running (row, group) pairs sorted by group, rows ascending inside a group."""

    rows: Tensor  # [P] int64: the row of each pair
    groups: Tensor  # [P] int64: its group
    counts: Tensor  # [G] int64: pairs of each group


# Compaction


def compact(x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of `x` [N, ...] where `keep` [N] is true, and their indices [n].

    Waits for the device once, because n is data.
    """
    with region("dispatch"):
        index = keep.nonzero().flatten()
        return x.index_select(0, index), index


def restore(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`x` [N, ...] with `rows` [n, ...] in the places `index` [n]; the others stay bit for bit."""
    with region("combine"):
        return x.index_copy(0, index, rows.to(x.dtype))


def where_kept(f: Callable[[Tensor], Tensor], x: Tensor, keep: Tensor) -> Tensor:
    """`x` [N, ...] with f applied to the rows where `keep` [N] is true, and only to them."""
    rows, index = compact(x, keep)
    if len(index) == 0:
        return x
    return f(x) if len(index) == len(x) else restore(x, index, f(rows))


# Fixed capacity


def take_top(x: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k tokens of each sample with the highest scores, in order of position.

    `x` [B, T, D], `scores` [B, T], 0 < k <= T -> ([B, k, D], index [B, k]).
    """
    with region("dispatch"):
        index = scores.topk(k, dim=1).indices.sort(dim=1).values
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])), index


def add_back(x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`x` [B, T, D] plus `rows` [B, k, D] at the tokens `index` [B, k]."""
    with region("combine"):
        return x.scatter_add(1, index[..., None].expand(-1, -1, x.shape[-1]), rows.to(x.dtype))


def capacity(num_rows: int, num_groups: int, top_k: int, factor: float) -> int:
    """Rows that one group may take: ceil(factor x rows x top_k / groups), at least 1 (GShard)."""
    return max(1, math.ceil(factor * num_rows * top_k / num_groups))


def within_capacity(run: Tensor, limit: int) -> Tensor:
    """`run` [N, G] with only the first `limit` rows of each group left; the others are dropped."""
    return run & (run.cumsum(0) <= limit)


# Sort by group


def sort_by_group(run: Tensor) -> Order:
    """The true entries of `run` [N, G] as pairs sorted by group."""
    groups, rows = run.t().nonzero().unbind(1)
    return Order(rows, groups, run.sum(0))


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
    if backend == "auto":
        backend = _choose(x, order, groups)
    if backend == "loop":
        return _mix_loop(x, order, weight, groups)
    if not groups.can_sort(x):
        raise ValueError(f"no grouped GEMM for rows {tuple(x.shape[1:])} of {x.dtype}; use loop")
    return _mix_sorted(x, order, weight, groups)


def _choose(x: Tensor, order: Order, groups: Groups) -> str:
    """The loop keeps a group's hidden rows in cache but pays Python per group."""
    many = x.device.type == "cpu" and len(order.rows) >= LOOP_ROWS * len(order.counts)
    return "loop" if many or not groups.can_sort(x) else "grouped"


def _mix_loop(x: Tensor, order: Order, weight: Tensor, groups: Groups) -> Tensor:
    with region("dispatch"):
        sizes = order.counts.tolist()
        parts = zip(groups.each(), order.rows.split(sizes), weight.split(sizes), strict=True)
    out = torch.zeros_like(x)
    for f, rows, scale in parts:
        if len(rows) == 0:
            continue
        with region("dispatch"):
            mine = x.index_select(0, rows)
        with region("expert"):
            result = f(mine)
        with region("combine"):  # no row twice in one group: the sum's order is fixed
            out.index_add_(0, rows, (result * scale).to(x.dtype))
    return out


def _mix_sorted(x: Tensor, order: Order, weight: Tensor, groups: Groups) -> Tensor:
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
    """Whether torch's grouped GEMM takes rows like `x` and `weight` [G, out, in].

    It wants fp32, bf16 or fp16 and rows whose length is a multiple of 16 bytes.
    """
    dtype = _dtype(x)
    aligned = all(size * dtype.itemsize % 16 == 0 for size in weight.shape[1:])
    return aligned and dtype in (torch.float32, torch.bfloat16, torch.float16)


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """x_p W_g^T for the group g of each row: sorted `x` [P, in], `weight` [G, out, in] -> [P, out].

    `counts` [G] adds up to P > 0. Obeys autocast, which torch's op by itself does not.
    """
    dtype = _dtype(x)
    offsets = counts.cumsum(0).to(torch.int32)
    out = F.grouped_mm(x.to(dtype), weight.to(dtype).transpose(1, 2), offs=offsets)
    if out.requires_grad:  # its backward refuses expanded gradients such as sum's
        out.register_hook(torch.Tensor.contiguous)
    return out


def _dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
