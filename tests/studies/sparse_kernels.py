"""Time ratios of sparse layers to the dense ones that they replace (`make kernels`).

    python -m tests.studies.sparse_kernels [--rounds N] [--cpu-time]

Layers as the methods use them at inference, fp32, with 1 and 2 threads; every row has the same
outputs as the dense product with zeros in the same places. Each round times both in random order;
ratios are taken within a round. Exit code 1 if a median is above its row's limit.

    csr           a linear layer at 95 % sparsity, width 512, 256 rows (`rigl`)
    blocks        a feed-forward layer at 25 % density in blocks of 32 x 32, width 1024, one row
    threshold     a linear layer of width 2048 of which half the inputs are 0, one row
    threshold, scattered   the same by copying the rows that are needed first. No limit
    speculation   16 tokens of self-speculation to plain greedy ones, width 256, 6 blocks, one
                  sample: all drafts accepted, and none. No limit: training decides which is nearer
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import Batch, TaskSpec
from methods.backbone.transformer import Transformer
from methods.parts.sparse.layers import SparseLinear, matrices
from methods.parts.sparse.thresholds import ThresholdLinear
from methods.skipping.layer_skip import LayerSkip
from methods.trunk.feedforward import FeedForward
from tests.studies.kernels import Candidates, limit_threads, read_options, time_rounds

NUM_TOKENS, VOCABULARY, LENGTH = 16, 64, 32


@dataclass(frozen=True)
class Row:
    """One comparison: `make()` gives both candidates and their input."""

    make: Callable[[], tuple[Candidates, Tensor]]
    limit: float | None = None  # largest median of sparse / dense; None: stated only


def csr() -> tuple[Candidates, Tensor]:
    """A linear layer that stores 5 % of its weights, beside the dense one."""
    dense = nn.Linear(512, 512)
    sparse = SparseLinear(dense, 0.05)
    return _pair(_masked(dense, sparse), sparse, torch.randn(256, 512))


def blocks() -> tuple[Candidates, Tensor]:
    """A feed-forward layer that stores a quarter of its blocks."""
    dense = FeedForward(1024, 4096)
    sparse = FeedForward(1024, 4096)
    sparse.up = SparseLinear(dense.up, 0.25, block=32)  # type: ignore[assignment]
    sparse.down = SparseLinear(dense.down, 0.25, block=32)  # type: ignore[assignment]
    _masked(dense.up, sparse.up)
    _masked(dense.down, sparse.down)
    return _pair(dense, sparse, torch.randn(1, 1, 1024))


def threshold() -> tuple[Candidates, Tensor]:
    """A linear layer whose threshold is the median of its inputs."""
    dense, x = nn.Linear(2048, 2048), torch.randn(1, 1, 2048)
    sparse = ThresholdLinear(dense, "a", 1).eval()
    sparse.gate.threshold.copy_(x.abs().median())
    # The same inputs are 0 for both: a dense product takes as long whatever they are.
    return {"dense": dense, "sparse": sparse}, x * (x.abs() > sparse.gate.threshold)


def gathered() -> tuple[Candidates, Tensor]:
    """As `threshold`, the rows copied and multiplied."""
    made, x = threshold()
    table, bias = made["sparse"].table, made["sparse"].bias  # type: ignore[attr-defined]

    def gather(x: Tensor) -> Tensor:
        rows = x.flatten().nonzero().flatten()
        return x[..., rows] @ table.index_select(0, rows) + bias

    return {"dense": made["dense"], "sparse": gather}, x


def accepting(share: float) -> Callable[[], tuple[Candidates, Tensor]]:
    """Generation where `share`, 0 or 1, of the drafts are right."""

    def make() -> tuple[Candidates, Tensor]:
        spec = TaskSpec("study", "tokens", (LENGTH,), VOCABULARY, VOCABULARY, causal=True)
        model = LayerSkip().build(spec, Transformer(dim=256, depth=6)).eval()
        model.num_drafts = 4
        for block in list(model.trunk.blocks)[model.num_draft_blocks :]:
            parts: Any = (block.attention.out, block.ffn.down)
            for layer in parts:
                # Later blocks that add nothing, or that decide alone.
                layer.weight.data.mul_(0.0 if share else 50.0)
        x = torch.randint(VOCABULARY, (1, LENGTH - NUM_TOKENS))
        return {
            "dense": lambda x: torch.stack(list(model.trunk.generate(Batch(x, x), NUM_TOKENS))),
            "sparse": lambda x: torch.stack(list(model.generate(Batch(x, x), NUM_TOKENS))),
        }, x

    return make


ROWS = {
    "csr, 95 %, 512, batch 256": Row(csr, 0.35),
    "blocks, 25 %, FFN 1024, batch 1": Row(blocks, 0.4),
    "threshold, 50 %, 2048, one token": Row(threshold, 0.75),
    "threshold, scattered": Row(gathered),
    "speculation, all accepted": Row(accepting(1.0)),
    "speculation, none accepted": Row(accepting(0.0)),
}


def _masked(dense: nn.Linear, sparse: Any) -> nn.Linear:
    """`dense` with zeros where `sparse` stores nothing."""
    dense.weight.data = sparse.matrix.dense().detach()
    return dense


def _pair(dense: nn.Module, sparse: nn.Module, x: Tensor) -> tuple[Candidates, Tensor]:
    for matrix in matrices(sparse.eval()):
        matrix.export()
    return {"dense": dense.eval(), "sparse": sparse}, x


def time_row(
    row: Row, rounds: int, clock: Callable[[], float], cores: int
) -> dict[str, list[float]]:
    """Seconds of both in every round. Raises AssertionError where their outputs differ."""
    torch.manual_seed(0)
    made, x = row.make()
    with limit_threads(cores), torch.inference_mode():
        torch.testing.assert_close(made["sparse"](x), made["dense"](x), atol=1e-3, rtol=1e-3)
        return time_rounds(made, x, rounds, clock)


def judge(taken: dict[str, list[float]], limit: float | None) -> tuple[str, bool]:
    """Both medians and the ratio (median, quartiles) as cells, and whether it is in the limit."""
    ratios = [a / b for a, b in zip(taken["sparse"], taken["dense"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    dense, sparse = (statistics.median(taken[each]) * 1e3 for each in ("dense", "sparse"))
    kept = limit is None or middle <= limit
    verdict = "stated" if limit is None else f"{'<=' if kept else 'above'} {limit}"
    return f"{dense:.3f} | {sparse:.3f} | {middle:.3f} ({low:.3f}-{high:.3f}) | {verdict}", kept


def main() -> int:
    """Print the table; returns 1 if a ratio exceeds its limit, else 0."""
    options = read_options("sparse_kernels", __doc__, rounds=60)
    print("\n| layer | threads | dense ms | sparse ms | sparse / dense (quartiles) | |")
    print("|---|---|---|---|---|---|")
    all_kept = True
    for name, row in ROWS.items():
        for cores in options.threads:
            cells, is_kept = judge(time_row(row, options.rounds, options.clock, cores), row.limit)
            print(f"| {name} | {cores} | {cells} |", flush=True)
            all_kept &= is_kept
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
