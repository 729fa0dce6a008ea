"""Dense ops against closed forms, in the three gradient modes: exact integers, none flagged.

A MAC is two FLOPs. A product of [M, K] and [K, N] is M * K * N MACs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.meters.flops.counter import count

r = torch.randn
Mode = Callable[[], AbstractContextManager[Any]]
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]

# layer, shape of its input, MACs worked out by hand
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "mlp": (
        nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)),
        (8, 64),
        8 * (64 * 128 + 128 * 10),
    ),
    "linear of one vector": (nn.Linear(64, 32), (64,), 64 * 32),
    "linear of [B, T, D]": (nn.Linear(64, 32), (2, 16, 64), 32 * 64 * 32),
    "linear without rows": (nn.Linear(64, 32), (0, 64), 0),
    # zero padding is multiplied too: 8 x 8 outputs of 3 x 3 x 4
    "padded convolution": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8), 2 * 6 * 64 * 36),
    # 4 x 4 outputs
    "strided convolution": (nn.Conv2d(4, 6, 3, 2, padding=1), (2, 4, 8, 8), 2 * 6 * 16 * 36),
    "dilated convolution": (nn.Conv2d(4, 6, 3, dilation=2), (2, 4, 8, 8), 2 * 6 * 16 * 36),
    # 6 x 6 outputs; each output channel sees 4 / 2 inputs
    "grouped convolution": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8), 2 * 6 * 36 * 18),
    "depthwise convolution": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 8, 8), 2 * 4 * 36 * 9),
    "convolution over time": (nn.Conv1d(4, 6, 5), (2, 4, 20), 2 * 6 * 16 * 20),
    "convolution in space": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 3 * 27 * 16),
    # each of the 64 input pixels spreads a kernel
    "transposed convolution": (nn.ConvTranspose2d(4, 6, 3, 2), (2, 4, 8, 8), 2 * 4 * 64 * 54),
    "grouped transposed convolution": (
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        (2, 4, 8, 8),
        2 * 4 * 64 * 27,
    ),
    # 40 steps; four gates (three in a GRU), each with input and recurrent weights
    "LSTM": (nn.LSTM(64, 32, batch_first=True), (4, 10, 64), 40 * 4 * 32 * (64 + 32)),
    "GRU": (nn.GRU(64, 32, batch_first=True), (4, 10, 64), 40 * 3 * 32 * (64 + 32)),
    # both layers, both directions; the second layer reads both of the first
    "deep LSTM": (nn.LSTM(8, 4, 2, bidirectional=True), (3, 2, 8), 6 * 2 * 16 * 2 * (8 + 4)),
    "LSTM cell": (nn.LSTMCell(8, 4), (3, 8), 3 * 16 * (8 + 4)),
    # no matrices: nothing to count, nothing flagged
    "normalisation and pooling": (
        nn.Sequential(nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.GroupNorm(2, 4)),
        (2, 4, 8, 8),
        0,
    ),
}


def z(*shape: int) -> Tensor:
    """Complex normal numbers."""
    return r(*shape, dtype=torch.cfloat)


# work, MACs worked out by hand; a complex MAC is four real ones


def bags(weights: Tensor | None = None, **options: Any) -> Tensor:
    """Two bags of three rows out of a table of nine rows of four."""
    index = torch.arange(6).view(2, 3)
    return F.embedding_bag(index, r(9, 4), per_sample_weights=weights, mode="sum", **options)


OPS: dict[str, tuple[Callable[[], Any], int]] = {
    "mm": (lambda: r(3, 4) @ r(4, 5), 60),
    "mm with out": (lambda: torch.mm(r(3, 4), r(4, 5), out=torch.empty(3, 5)), 60),
    "mm without columns": (lambda: r(3, 4) @ r(4, 0), 0),
    "mm of integers": (lambda: torch.ones(3, 4).long() @ torch.ones(4, 5).long(), 60),
    "mm in bfloat16": (lambda: r(3, 4).bfloat16() @ r(4, 5).bfloat16(), 60),
    "complex mm": (lambda: z(3, 4) @ z(4, 5), 4 * 60),
    "addmm": (lambda: torch.addmm(r(5), r(3, 4), r(4, 5)), 60),
    "addmm in place": (lambda: r(3, 5).addmm_(r(3, 4), r(4, 5)), 60),
    "bmm": (lambda: torch.bmm(r(2, 3, 4), r(2, 4, 5)), 120),
    "baddbmm": (lambda: torch.baddbmm(r(2, 3, 5), r(2, 3, 4), r(2, 4, 5)), 120),
    "baddbmm in place": (lambda: r(2, 3, 5).baddbmm_(r(2, 3, 4), r(2, 4, 5)), 120),
    "addbmm": (lambda: torch.addbmm(r(3, 5), r(2, 3, 4), r(2, 4, 5)), 120),
    "addbmm in place": (lambda: r(3, 5).addbmm_(r(2, 3, 4), r(2, 4, 5)), 120),
    "mv": (lambda: torch.mv(r(3, 4), r(4)), 12),
    "addmv": (lambda: torch.addmv(r(3), r(3, 4), r(4)), 12),
    "addmv in place": (lambda: r(3).addmv_(r(3, 4), r(4)), 12),
    "dot": (lambda: torch.dot(r(7), r(7)), 7),
    "complex vdot": (lambda: torch.vdot(z(7), z(7)), 4 * 7),
    "matrix @ vector": (lambda: r(3, 4) @ r(4), 12),
    "batch @ vector": (lambda: r(2, 3, 4) @ r(4), 24),
    "matmul broadcasts the left": (lambda: r(3, 4) @ r(6, 4, 5), 6 * 60),
    "matmul broadcasts both": (lambda: r(1, 2, 3, 4) @ r(6, 1, 4, 5), 12 * 60),
    "linear with a vector weight": (lambda: F.linear(r(5, 7), r(7)), 35),
    "linear of strided rows": (lambda: F.linear(r(2, 3, 4)[:, ::2], r(5, 4)), 80),
    "einsum": (lambda: torch.einsum("bthd,bshd->bhts", r(2, 3, 4, 5), r(2, 6, 4, 5)), 720),
    "einsum of an outer product": (lambda: torch.einsum("i,j->ij", r(3), r(4)), 0),
    "tensordot": (lambda: torch.tensordot(r(2, 3, 4), r(4, 5), 1), 120),
    # (3 x 4 x 5) and then (3 x 5 x 60): the cheaper order
    "multi_dot": (lambda: torch.linalg.multi_dot([r(3, 4), r(4, 5), r(5, 60)]), 60 + 900),
    "matrix power": (lambda: torch.linalg.matrix_power(r(4, 4), 4), 2 * 64),
    "integer mm": (
        lambda: torch._int_mm(torch.ones(32, 16).char(), torch.ones(16, 8).char()),
        32 * 16 * 8,
    ),
    "conv_tbc": (lambda: torch.conv_tbc(r(9, 2, 4), r(3, 4, 5), r(5)), 7 * 2 * 5 * 12),
    # torch takes three real convolutions for a complex one
    "complex convolution": (lambda: F.conv1d(z(1, 4, 6), z(5, 4, 3)), 3 * 5 * 4 * 12),
    # two samples, 4 x 5 points [x, y, 1] times 3 x 2; or 3 x 4 x 5 points times 4 x 3
    "grid of a spatial transformer": (
        lambda: F.affine_grid(r(2, 2, 3), [2, 1, 4, 5], align_corners=False),
        2 * 20 * 3 * 2,
    ),
    "grid in three dimensions": (
        lambda: F.affine_grid(r(2, 3, 4), [2, 1, 3, 4, 5], align_corners=False),
        2 * 60 * 4 * 3,
    ),
    # as executed: x1 W sums I1 for all of N, O, I2; then x2 sums I2
    "bilinear": (lambda: F.bilinear(r(5, 3), r(5, 4), r(6, 3, 4)), 5 * 6 * 3 * 4 + 5 * 6 * 4),
    # torch's matmul form of the Euclidean distance carries two columns of norms
    "cdist by matmul": (lambda: torch.cdist(r(30, 8), r(40, 8)), 30 * 40 * 10),
    "cdist by differences": (lambda: torch.cdist(r(3, 8), r(4, 8), p=1.0), 3 * 4 * 8),
    "pdist": (lambda: F.pdist(r(5, 8)), 10 * 8),
    # weights make a bag a sparse row times the table: 6 indices, 5 without padding, of 4 columns
    "weighted bags": (lambda: bags(weights=r(2, 3)), 6 * 4),
    "weighted bags, padded": (lambda: bags(weights=r(2, 3), padding_idx=2), 5 * 4),
    "bags": (lambda: bags(), 0),
    "addr": (lambda: torch.addr(r(3, 4), r(3), r(4)), 12),
    "softmax, scan, sort": (lambda: r(5, 8).softmax(-1).cumsum(0).sort().values.std(), 0),
    "gather, scatter, mask": (
        lambda: (
            F.embedding(torch.tensor([1, 5]), r(9, 4))
            .index_add(0, torch.tensor([0, 1]), r(2, 4))
            .scatter_add(0, torch.zeros(1, 4).long(), r(1, 4))[torch.tensor([True, False])]
            .nonzero()
        ),
        0,
    ),
}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_count_their_closed_form(name: str, mode: Mode) -> None:
    """A layer's count is exactly its closed form, whatever the gradient mode."""
    layer, shape, macs = LAYERS[name]
    with mode():
        counted = count(layer, r(*shape), strict=True)
    assert (counted.total, counted.macs, counted.complete) == (2 * macs, macs, True)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", OPS)
def test_ops_count_their_closed_form(name: str, mode: Mode) -> None:
    """An op's count is exactly its closed form, whatever the gradient mode."""
    run, macs = OPS[name]
    with mode():
        counted = count(run, strict=True)
    assert (counted.total, counted.macs, counted.complete) == (2 * macs, macs, True)


def test_autocast_changes_precision_and_no_count() -> None:
    """A linear layer has the same count with and without autocast."""
    layer = nn.Linear(64, 32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        counted = count(layer, r(8, 64), strict=True)
    assert (counted.macs, counted.result.dtype) == (8 * 64 * 32, torch.bfloat16)


def test_elementwise_work_has_its_own_column() -> None:
    """Elementwise ops count the elements that they write, and no FLOPs."""
    # two writes of 12 elements; the view writes none
    counted = count(lambda x: (x + 1).view(12).mul_(2), r(3, 4))
    assert (counted.total, counted.pointwise_elems) == (0, 24)


def test_bytes_are_operands_and_results() -> None:
    """Bytes touched are operands read and results written; a gather reads only what it returns."""
    # mm: (3*4 + 4*5 + 3*5) floats; index_select: 2 rows of 4 read and written, 2 indices of 8 bytes
    table, index = r(100, 4), torch.tensor([3, 5])
    assert count(torch.mm, r(3, 4), r(4, 5)).bytes_touched == 4 * (12 + 20 + 15)
    assert count(table.index_select, 0, index).bytes_touched == 4 * (8 + 8) + 16
    assert count(table.t).bytes_touched == 0
