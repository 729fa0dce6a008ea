"""The cost of routing's bookkeeping in a training step of a small mixture (`make kernels`).

    python -m tests.studies.routing_overhead [--rounds N] [--cpu-time]

    observed    decisions recorded (`routing.observe`): at most 2 % of a step
    unobserved  regions and decisions announced without an observer: the cost in every run
    bare        the same model with both removed from the code

Every round times all three in random order; the ratio to `bare` is taken inside a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench import routing
from bench.types import Batch, TaskSpec
from methods.backbone.transformer import Transformer
from methods.experts import moe
from methods.experts.moe import MoE
from methods.parts import dispatch
from tests.studies.kernels import limit_threads, read_options, time_rounds

NUM_SAMPLES = 64
OBSERVED_LIMIT = 1.02


def step() -> Callable[[], None]:
    """Forward and backward of the default mixture on 64 images of 16 tokens."""
    torch.manual_seed(0)
    spec = TaskSpec("blank", "image", (1, 16, 16), 10)
    model = MoE().build(spec, Transformer()).train()
    batch = Batch(torch.randn(NUM_SAMPLES, 1, 16, 16), torch.zeros(NUM_SAMPLES).long())

    def run() -> None:
        model.zero_grad()
        output = model(batch)
        (output.logits.square().mean() + output.aux_loss).backward()

    return run


def candidates() -> dict[str, Callable[[Tensor], Any]]:
    """The same step three ways; the argument is not used."""
    run = step()

    def bare(_: Tensor) -> None:
        silent: dict[str, Any] = {"region": lambda name: nullcontext()}
        obeyed: dict[str, Any] = {"decide": lambda name, *, run, **_: run, **silent}
        with mock.patch.multiple(moe, **obeyed), mock.patch.multiple(dispatch, **silent):
            run()

    def observed(_: Tensor) -> None:
        with routing.observe():
            run()

    return {"observed": observed, "unobserved": lambda _: run(), "bare": bare}


def main() -> None:
    """Print the ratios with their quartiles."""
    options = read_options("routing_overhead", __doc__)
    with limit_threads(1):
        taken = time_rounds(candidates(), torch.zeros(1), options.rounds, options.clock)
    print("routing, of a training step (mixture of experts, 64 images), one thread, fp32")
    for name in ("observed", "unobserved"):
        ratios = [a / b for a, b in zip(taken[name], taken["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {name:10} / bare: {middle:.4f} ({low:.4f}-{high:.4f})")
    print(f"  limit of observed: {OBSERVED_LIMIT}")


if __name__ == "__main__":
    main()
