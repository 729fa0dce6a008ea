"""The ledger beside torch's profiler and fvcore: agreement, and their known blind spots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.meters.flops.counter import MeterStateError, count
from bench.meters.flops.crosscheck import macs_fvcore, profiler_flops
from bench.types import Batch, Output

r = torch.randn


def moe_loop(x: Tensor, num_experts: int = 4, k: int = 2) -> Tensor:
    """A mixture of experts as a Python loop over its experts."""
    up, out = r(num_experts, 16, 32), torch.zeros(len(x), 32)
    chosen = (x @ r(16, num_experts)).topk(k).indices
    for e in range(num_experts):
        rows = (chosen == e).any(-1).nonzero().flatten()
        out.index_add_(0, rows, x[rows] @ up[e])
    return out


def in_a_thread(x: Tensor) -> None:
    """A product in another thread."""
    thread = threading.Thread(target=lambda: x @ x.T)
    thread.start()
    thread.join()


mha = nn.MultiheadAttention(64, 4, batch_first=True).eval()
convolution, bilinear = nn.Conv2d(2, 4, 3), nn.Bilinear(3, 4, 6)
volume, sequence = nn.Conv3d(2, 4, 3, stride=2), nn.Conv1d(2, 4, 3, padding=1, groups=2)
lstm, gru = nn.LSTM(4, 5), nn.GRU(4, 5, bidirectional=True)
TOKENS, ENDS = r(2, 32, 64), torch.tensor([4, 4, 20], dtype=torch.int32)
VISIBLE: dict[str, Callable[[], object]] = {
    "fused multi-head attention": lambda: mha(TOKENS, TOKENS, TOKENS),
    "grouped_mm": lambda: torch._grouped_mm(r(24, 16), r(3, 16, 8), ENDS),
    "mixture of experts as a loop": lambda: moe_loop(r(24, 16)),
    "convolution": lambda: convolution(r(2, 2, 8, 8)),
    "convolution of one image": lambda: convolution(r(2, 8, 8)),
    "convolution of a volume": lambda: volume(r(2, 2, 8, 8, 9)),
    "grouped convolution of a sequence": lambda: sequence(r(2, 2, 9)),
    "complex convolution": lambda: nn.functional.conv2d(
        r(1, 2, 6, 6, dtype=torch.cfloat), r(3, 2, 3, 3, dtype=torch.cfloat)
    ),
    "grid of a spatial transformer": lambda: nn.functional.affine_grid(
        r(2, 2, 3), [2, 1, 4, 5], align_corners=False
    ),
    "fused attention": lambda: nn.functional.scaled_dot_product_attention(
        r(2, 3, 5, 4), r(2, 3, 7, 4), r(2, 3, 7, 4)
    ),
    "math attention": lambda: nn.functional.scaled_dot_product_attention(
        r(2, 3, 5, 4), r(2, 3, 7, 4), r(2, 3, 7, 6), is_causal=True
    ),
    "recurrent": lambda: (lstm(r(3, 2, 4)), gru(r(3, 2, 4))),
    "vectors": lambda: (r(3, 4) @ r(4), r(4).dot(r(4)), torch.addr(r(3, 4), r(3), r(4))),
    "in place": lambda: (
        r(3, 5).addmm_(r(3, 4), r(4, 5)),
        r(2, 3, 5).baddbmm_(TOKENS[:, :3, :4], TOKENS[:, :4, :5]),
    ),
    "bilinear": lambda: bilinear(r(5, 3), r(5, 4)),
    "distances": lambda: torch.cdist(r(30, 8), r(40, 8)),
    "another thread": lambda: in_a_thread(r(5, 6)),
}


@pytest.mark.parametrize("name", VISIBLE)
def test_ledger_and_profiler_agree(name: str) -> None:
    """On ops that both count, also in fused kernels and other threads, they are equal integers."""
    torch.manual_seed(0)
    with torch.no_grad():
        ledger = count(VISIBLE[name], strict=True).total
        torch.manual_seed(0)
        seen = profiler_flops(VISIBLE[name])
    assert sum(seen.values()) == ledger > 0


def test_bilinear_gradients_agree_with_the_profiler() -> None:
    """The ledger's count of the three-way product's backward pass is the profiler's."""
    x, y, weight = (r(*s, requires_grad=True) for s in [(5, 3), (5, 4), (6, 3, 4)])

    def step() -> None:
        nn.functional.bilinear(x, y, weight).sum().backward()

    assert sum(profiler_flops(step).values()) == count(step, strict=True).total


def test_elementwise_flops_of_the_profiler_are_left_out() -> None:
    """The profiler's FLOPs of add and mul are no MACs."""
    assert profiler_flops(lambda x: x * x + x, r(8, 8)) == {}


def test_the_profiler_refuses_to_run_under_a_count() -> None:
    """A cross-check inside a count raises."""
    with pytest.raises(MeterStateError, match="Ledger"):
        count(profiler_flops, torch.mm, r(3, 4), r(4, 5))


class Wrapped(nn.Module):
    """A model with the project's signature around any module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Output:
        return Output(self.module(batch.inputs))


BATCH = Batch(r(8, 64), torch.zeros(8), torch.ones(8, 1, dtype=torch.bool))


def test_fvcore_counts_macs_of_products_only(caplog: pytest.LogCaptureFixture) -> None:
    """The MACs exclude fvcore's count of normalisation, and it logs nothing."""
    model = Wrapped(nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(32, 10)))
    with caplog.at_level(logging.DEBUG):
        found = macs_fvcore(model, BATCH)
    assert found == (8 * (64 * 32 + 32 * 10), {}, None)
    assert 2 * found.macs == count(model, BATCH).total
    assert caplog.records == []


def test_fvcore_lists_the_ops_that_it_does_not_count() -> None:
    """Fused attention is missing from fvcore's MACs and listed."""

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(
                x[None], x[None], x[None]
            ) @ x.transpose(0, 1)

    found = macs_fvcore(Wrapped(Attention()), BATCH)
    assert (found.macs, found.reason) == (8 * 64 * 8, None)
    assert found.unsupported_ops == {"aten::scaled_dot_product_attention": 1}


def test_fvcore_leaves_no_hooks_where_it_fails() -> None:
    """A remaining hook would be run and timed in every later call; the model's own are kept."""

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, batch: Batch) -> Output:
            raise ValueError(self.layer(batch.inputs).sum())

    model, called = Fails(), []
    model.layer.register_forward_hook(lambda *_: called.append(1))
    assert macs_fvcore(model, BATCH).macs is None
    assert [len(m._forward_hooks) for m in model.modules()] == [0, 1]
    assert [len(m._forward_pre_hooks) for m in model.modules()] == [0, 0]
    assert called == [1]


def test_fvcore_never_raises() -> None:
    """A model that cannot be traced has no MACs, and a reason of one line."""

    class Fails(nn.Module):
        def forward(self, batch: Batch) -> Output:
            raise ValueError("no way\nat all")

    found = macs_fvcore(Fails(), BATCH)
    assert (found.macs, found.unsupported_ops) == (None, {})
    assert found.reason == "fvcore could not trace it: ValueError: no way"


def test_the_reason_excludes_locations_in_torchs_sources() -> None:
    """A file and a line of torch's own build do not help a reader of the table."""

    class Fails(nn.Module):
        def forward(self, batch: Batch) -> Output:
            raise RuntimeError(
                '0 INTERNAL ASSERT FAILED at "/b/alias.cpp":62, please report a bug to PyTorch. '
                "We don't have an op for aten::scatter. Argument types: Tensor, bool, \nCandidates:"
            )

    assert macs_fvcore(Fails(), BATCH).reason == (
        "fvcore could not trace it: RuntimeError: We don't have an op for aten::scatter. "
        "Argument types: Tensor, bool"
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_convolution_under_autocast_is_seen_once(dtype: torch.dtype) -> None:
    """Autocast's convolution calls itself with cast operands: 2 x (2 x 6 x 6 x 4) x 18 FLOPs."""
    with torch.no_grad(), torch.autocast("cpu", dtype):
        seen = profiler_flops(convolution, r(2, 2, 8, 8))
    assert seen == {"aten::convolution": 2 * (2 * 6 * 6 * 4) * (2 * 9)}
