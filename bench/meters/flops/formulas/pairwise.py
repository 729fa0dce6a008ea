"""FLOPs of ops that pair the rows of two or three tensors and are no single matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from bench.meters.flops.call import Call
from bench.meters.flops.formulas.sparse import flops_per_mac


def trilinear(call: Call) -> int:
    """`aten::_trilinear` as executed, in two stages per slice of the unrolled dimension.

    First i1 x i2, summed over the dimensions that i3 lacks; then times i3, summed over the rest. A
    stage that sums nothing is elementwise and has no FLOPs.
    """
    expanded = [set(call[f"expand{i}"]) for i in (1, 2, 3)]
    rank, unrolled = call["i1"].dim() + len(expanded[0]), call.get("unroll_dim", 1)
    sizes = [_expand(call[f"i{i + 1}"].shape, expanded[i], rank) for i in range(3)]
    num_slices = max(size[unrolled] for size in sizes)
    for size in sizes:
        size[unrolled] = 1  # the stages below are those of one slice
    summed = set(call["sumdim"]) - {unrolled}
    pair, macs_pair = _sum_of_products(sizes[0], sizes[1], summed & expanded[2])
    _, macs_all = _sum_of_products(pair, sizes[2], summed - expanded[2])
    return flops_per_mac(call["i1"]) * num_slices * (macs_pair + macs_all)


def _expand(shape: Sequence[int], expanded: set[int], rank: int) -> list[int]:
    given = iter(shape)  # the dimensions in `expanded` do not occur in `shape`
    return [1 if d in expanded else next(given) for d in range(rank)]


def _sum_of_products(left: list[int], right: list[int], summed: set[int]) -> tuple[list[int], int]:
    """Sizes and MACs of left x right, summed over the dimensions in `summed`."""
    # torch sums a dimension that one side lacks before it multiplies: additions, no MACs.
    before = {d for d in summed if min(left[d], right[d]) == 1}
    sizes = [
        1 if d in before else max(pair) for d, pair in enumerate(zip(left, right, strict=True))
    ]
    result = [1 if d in summed else size for d, size in enumerate(sizes)]
    return result, prod(sizes) * bool(summed)


def distances(call: Call, *, num_norms: int = 0) -> int:
    """One MAC per pair of rows and per column; the matmul form appends columns for the norms."""
    table = call.get("cdist", call.result)  # [..., rows, rows]; backward: the forward's table
    return 2 * table.numel() * (call["x1"].shape[-1] + num_norms)


def pair_distances(call: Call) -> int:
    """Every unordered pair of n rows [n, D]."""
    num_rows, dim = call.first.shape
    return num_rows * (num_rows - 1) * dim
