"""What compute allocation and recursion keep of their saving (`make kernels`).

    python -m tests.studies.allocation_kernels [--rounds N] [--cpu-time]

Untrained transformers, fp32: 6 blocks, width 256, 16 samples of 256 tokens, with 1 and 2 threads.
Each round runs the method and the dense model in random order; ratios are taken within a round.
The realised share is speed-up / FLOP ratio. Exit code 1 if a median is below the limit.

    allocation   a block runs on the tokens whose a exceeds a threshold, the median over all tokens
                 and blocks of an untrained model
    recursions   expert choice: 4, 3, 2 and 1 quarters of the tokens run the shared block
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec
from methods.allocation.allocation import Allocation
from methods.allocation.recursions import Recursions
from methods.backbone.transformer import Transformer
from tests.studies.kernels import limit_threads, read_options, time_rounds

BATCH, LENGTH, VOCABULARY = 16, 256, 64
LIMIT = 0.9  # smallest median of the realised share
SPEC = TaskSpec("study", "tokens", (LENGTH,), 10, VOCABULARY)
Model = Callable[[Batch], Any]


def backbone() -> Transformer:
    """The dense family at the studied size."""
    return Transformer(dim=256, depth=6, num_heads=4)


def inputs() -> Tensor:
    """Symbols [B, T], the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)


def allocation(x: Tensor) -> Model:
    """Half of all decisions are to run."""
    model: Any = Allocation().build(SPEC, backbone()).eval()
    with routing.observe():  # without which a pass of inference keeps no logits
        logits = model(Batch(x, x)).stats["logits"]
    model.threshold.copy_(logits.median().sigmoid())
    return model  # type: ignore[no-any-return]


def recursions(x: Tensor) -> Model:
    """The routers of a model that reads whole samples take the same number in each."""
    return Recursions().build(SPEC, backbone()).eval()


METHODS = {"allocation": allocation, "recursions": recursions}


def candidates(name: str, x: Tensor) -> dict[str, Callable[[Tensor], Any]]:
    """The method and the dense model, as callables of symbols [B, T]."""
    torch.manual_seed(0)
    models = {"dense": backbone().build(SPEC).eval(), "method": METHODS[name](x)}
    return {each: lambda x, model=model: model(Batch(x, x)) for each, model in models.items()}


def judge(taken: dict[str, list[float]], share: float) -> tuple[str, bool]:
    """Realised share (median, quartiles) where the method executes `share` of the dense FLOPs."""
    ratios = [share * a / b for a, b in zip(taken["dense"], taken["method"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    kept = middle >= LIMIT
    verdict = f"{'>=' if kept else 'below'} {LIMIT}"
    return f"{middle:.3f} ({low:.3f}-{high:.3f}) | {verdict}", kept


def main() -> int:
    """Print the table; returns 1 if a median is below the limit, else 0."""
    options = read_options("allocation_kernels", __doc__, rounds=20)
    print("\n| method | threads | FLOPs / dense | dense ms | realised (quartiles) | |")
    print("|---|---|---|---|---|---|")
    all_kept, x = True, inputs()
    with torch.inference_mode():
        for name in METHODS:
            made = candidates(name, x)
            flops = {each: count(call, x).total for each, call in made.items()}
            share = flops["method"] / flops["dense"]
            for cores in options.threads:
                with limit_threads(cores):
                    taken = time_rounds(made, x, options.rounds, options.clock, warm_up=2)
                cells, is_kept = judge(taken, share)
                dense = statistics.median(taken["dense"]) * 1e3
                print(f"| {name} | {cores} | {share:.3f} | {dense:.1f} | {cells} |", flush=True)
                all_kept &= is_kept
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
