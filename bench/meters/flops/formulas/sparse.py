"""Matrix products whose operands may be sparse: only stored elements are multiplied."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.meters.flops.call import Call

# mkldnn's layout is opaque but dense; torch exports its constant under a private name only.
_DENSE = (torch.strided, torch._mkldnn)  # type: ignore[attr-defined]

_PACKED = (getattr(torch, "float4_e2m1fn_x2", None),)  # two numbers in one element


def is_sparse(tensor: Tensor) -> bool:
    """Whether the tensor stores only some of its elements (COO, CSR, CSC, BSR, BSC)."""
    return tensor.layout not in _DENSE


def num_stored(tensor: Tensor) -> int:
    """Number of stored elements; a block layout stores whole blocks, a dense one everything."""
    if not is_sparse(tensor):
        return tensor.numel()
    if tensor.layout is torch.sparse_coo:
        return tensor._values().numel()  # `values()` raises on tensors that are not coalesced
    return tensor.values().numel()


def flops_per_mac(tensor: Tensor) -> int:
    """FLOPs of one multiply-add in the tensor's arithmetic: 2, or 8 where it is complex."""
    return 8 if tensor.dtype.is_complex else 2


def matmul(left: Tensor, right: Tensor) -> int | None:
    """FLOPs of [..., M, K] @ [..., K, N] or @ [K]; None for nested and four-bit tensors."""
    if left.is_nested or right.is_nested or left.dtype in _PACKED:
        return None
    num_columns = right.shape[-1] if right.dim() > 1 else 1
    if not is_sparse(right):
        macs = num_stored(left) * num_columns
    elif not is_sparse(left):
        macs = left.shape[-2] * num_stored(right) if left.dim() > 1 else num_stored(right)
    else:
        macs = _num_matches(left, right)
    return flops_per_mac(left) * macs


def _num_matches(left: Tensor, right: Tensor) -> int:
    """Number of pairs of a stored (i, k) of the left and a stored (k, j) of the right."""
    # Per k: stored elements in the left's column k times those in the right's row k.
    width = left.shape[-1]
    columns = torch.bincount(left.to_sparse_coo()._indices()[1], minlength=width)
    rows = torch.bincount(right.to_sparse_coo()._indices()[0], minlength=width)
    return int((columns * rows).sum())


def sampled_product(call: Call) -> int:
    """mat1 [M, K] @ mat2 [K, N] only where `self` stores an element."""
    return flops_per_mac(call["mat1"]) * num_stored(call["self"]) * call["mat1"].shape[-1]


def weighted_bag(call: Call) -> int:
    """A bag of weighted rows is a sparse row times a table: one MAC per index and column.

    That holds forward and for either gradient. Without weights rows are only summed.
    """
    if call.get("per_sample_weights") is None:
        return 0
    return bag_products(call)


def bag_products(call: Call) -> int:
    """One MAC per index and column of the first argument: the table or the bags' gradient."""
    skipped = call.get("padding_idx", -1)  # rows of the padding index are left out; -1: none is
    used = int((call["indices"] != skipped).sum()) if skipped >= 0 else call["indices"].numel()
    return flops_per_mac(call.first) * used * call.first.shape[-1]
