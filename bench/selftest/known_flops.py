"""The FLOP meter on work with known FLOPs, beside FlopCounterMode, fvcore and the profiler."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.conditions import pinned_threads
from bench.meters.flops.counter import count
from bench.meters.flops.crosscheck import macs_fvcore, profiler_flops
from bench.types import Batch, Output

HEADERS = ["case", "closed form (FLOP)", "condbench", "FlopCounterMode", "fvcore x 2", "profiler"]
MAX_US_PER_OP = 60.0  # overhead of counting: about 7 us on a quiet machine
B, T, D, H, E, K = 4, 16, 64, 128, 8, 2  # samples, tokens, width, hidden width, experts, top-k


class Attention(nn.Module):
    """Scaled dot product attention with 4 heads: two products of T x T x D per sample."""

    def forward(self, x: Tensor) -> Tensor:
        # Without projections: all FLOPs are the fused kernel's, which other counters miss.
        heads = x.view(B, T, 4, D // 4).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


class Experts(nn.Module):
    """Top-2 of 8 experts without bias: a router, then each chosen expert's two layers."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.grouped = grouped
        self.router = nn.Linear(D, E, bias=False)
        # Scaled so that outputs stay finite; the values do not matter.
        self.up = nn.Parameter(torch.randn(E, D, H) / D)
        self.down = nn.Parameter(torch.randn(E, H, D) / H)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, D)  # [N, D]
        chosen = self.router(tokens).topk(K).indices.flatten()  # [N * K]
        # Rows sorted by expert, as both ways of running the experts need them.
        order = chosen.argsort()
        rows = tokens.repeat_interleave(K, 0)[order]
        # [E], where each expert's rows end; grouped_mm requires int32.
        ends = torch.bincount(chosen, minlength=E).cumsum(0).to(torch.int32)
        if self.grouped:
            return F.grouped_mm(F.grouped_mm(rows, self.up, offs=ends), self.down, offs=ends)
        pieces = rows.tensor_split(ends[:-1].tolist())
        return torch.cat(
            [p @ up @ down for p, up, down in zip(pieces, self.up, self.down, strict=True)]
        )


class Matvec(nn.Module):
    """A matrix times a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(D, D))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mv(self.matrix, x[0, 0])


class Backward(nn.Module):
    """A grouped convolution (16 groups), forward and backward with respect to both arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(D, D, 3, padding=1, groups=16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():  # cases run without gradients otherwise
            inputs = x.transpose(1, 2).detach().requires_grad_()
            self.conv(inputs).sum().backward()
        return inputs


class Sparse(nn.Module):
    """A linear layer that stores one weight per row, in compressed sparse rows."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():  # torch announces that this layout may change
            warnings.simplefilter("ignore", UserWarning)
            self.register_buffer("weight", torch.eye(D).to_sparse_csr())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.reshape(-1, D), self.weight)


class Grid(nn.Module):
    """The grid of a spatial transformer: a product inside an op that is named like a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return F.affine_grid(x[:, :2, :3], [B, 1, T, D], align_corners=False)


@dataclass(frozen=True)
class Case:
    """A module on a random input [B, T, D], and the closed form of its FLOPs."""

    name: str
    build: Callable[[], nn.Module]
    flops: int


# FLOPs, 2 x MAC: a D x D layer; router and two layers of K experts; an encoder layer (four
# projections, two products of attention, two layers of the feed-forward part).
LAYER = 2 * B * T * D * D
ROUTED = 2 * B * T * D * E + K * 2 * 2 * B * T * D * H
ENCODER = 4 * LAYER + 2 * 2 * B * T * T * D + 2 * 2 * B * T * D * H
CASES = (
    Case("linear layer", lambda: nn.Linear(D, D), LAYER),
    Case("scaled_dot_product_attention", Attention, 2 * 2 * B * T * T * D),
    Case(
        "TransformerEncoderLayer, fused",
        lambda: nn.TransformerEncoderLayer(D, 4, H, batch_first=True),
        ENCODER,
    ),
    Case("MoE top-2 of 8, loop", lambda: Experts(grouped=False), ROUTED),
    Case("MoE top-2 of 8, grouped_mm", lambda: Experts(grouped=True), ROUTED),
    # four gates, each with an input and a recurrent matrix
    Case("LSTM", lambda: nn.LSTM(D, D, batch_first=True), 2 * 4 * LAYER),
    Case("matrix times vector", Matvec, 2 * D * D),
    Case("linear layer, CSR, 64 of 4,096 stored", Sparse, LAYER // D),
    # T x D points [x, y, 1] of each sample times a 3 x 2 matrix
    Case("affine_grid of a spatial transformer", Grid, 2 * B * T * D * 3 * 2),
    # forward, gradient of the input, gradient of the weight: each sums D / 16 channels x 3 places
    Case("grouped convolution, fwd + bwd", Backward, 3 * 2 * B * T * D * (D // 16) * 3),
)


def rows_and_failures() -> tuple[list[list[str]], list[str]]:
    """One row per case, and the cases in which our meter is neither exact nor flagged."""
    rows, failed = [], []
    for case in CASES:
        torch.manual_seed(0)
        module = case.build().eval()
        x = torch.randn(B, T, D)
        # Each counter runs the module itself: they cannot be nested.
        with torch.no_grad():
            ours = count(module, x)
            counter = FlopCounterMode(display=False)
            with counter:
                module(x)
            traced = macs_fvcore(_OnBatch(module), Batch(x, torch.zeros(B)))
            profiled = sum(profiler_flops(module, x).values())
        if ours.complete and ours.total != case.flops:
            failed.append(f"FLOPs, {case.name}: {ours.total}, closed form {case.flops}")
        own = _share(ours.total, case) if ours.complete else "flagged"
        theirs = "fails"
        if traced.macs is not None:
            theirs = _share(2 * traced.macs, case) + ", flagged" * bool(traced.unsupported_ops)
        others = (_share(counter.get_total_flops(), case), theirs, _share(profiled, case))
        rows.append([case.name, f"{case.flops:,}", own, *others])
    return rows, failed


def _share(flops: float, case: Case) -> str:
    return f"{flops / case.flops:.3f}"


class _OnBatch(nn.Module):
    """A module that takes tensors, as a model that takes batches."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Output:
        return Output(self.module(batch.inputs))


def overhead() -> dict[str, float]:
    """Microseconds of CPU per dispatched op without and with a counter: the fastest of five runs.

    CPU time, on one thread, because another process's load is no overhead of the counter.
    """
    x = torch.randn(8, 8)  # tiny: the product itself is a fraction of its dispatch
    num_ops = 2000

    def chain() -> None:
        for _ in range(num_ops):
            torch.mm(x, x)

    def us_per_op(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            start = time.process_time_ns()
            run()
            times.append(time.process_time_ns() - start)
        return min(times) / num_ops / 1e3

    def under_counter() -> None:
        with FlopCounterMode(display=False):
            chain()

    with pinned_threads(1), torch.inference_mode():
        return {
            "no counter": us_per_op(chain),
            "condbench": us_per_op(lambda: count(chain)),
            "FlopCounterMode": us_per_op(under_counter),
        }
