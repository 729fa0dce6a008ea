"""Time ratios of this project's mixture-of-experts layer to Hugging Face's (`make kernels`).

    python -m tests.studies.kernels [--rounds N] [--cpu-time]

A Mixtral block (width 256, hidden 1024, 8 experts, top-2, SwiGLU) with equal weights and outputs in
every implementation, at 1,024 and at 64 tokens, with 1 and 2 threads in fp32; in bf16 on a GPU if
there is one. Each round times every candidate once, in a seeded random order, so that the state of
the caches is no advantage of any. Ratios are taken within a round, so that a slow moment of the
machine affects all candidates.

    dense       one SwiGLU layer on as many rows as all experts together: the same FLOPs in three
                matrix products, no routing
    dense, cut  the same products with as many rows as one expert has, one weight for all: the
                cost of smaller products
    experts     each expert's products on its rows, own weights, no routing: the additional cost
                of reading more weights; the rest of the layer's time is routing
    read        the weights of the active experts read once (a sum over them): with few tokens
                the lower bound set by memory bandwidth
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from methods.experts.moe import MoE, MoEFFN

DIM, HIDDEN, NUM_EXPERTS, TOP_K = 256, 1024, 8, 2
MODES = ("eager", "batched_mm", "grouped_mm")  # of transformers' experts
BACKENDS = ("auto", "loop", "grouped")  # of methods.parts.dispatch
Candidates = dict[str, Callable[[Tensor], Tensor]]


def huggingface(mode: str) -> nn.Module:
    """Hugging Face's block, always with the same weights."""
    config = MixtralConfig(
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=TOP_K,
    )
    config._experts_implementation = mode
    block: nn.Module = MixtralSparseMoeBlock(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return block


def ours(backend: str) -> MoEFFN:
    """This project's layer with the same weights."""
    theirs = huggingface("eager")
    settings = MoE(num_experts=NUM_EXPERTS, top_k=TOP_K, activation="swiglu", backend=backend)
    layer = MoEFFN(DIM, HIDDEN, settings).eval()
    layer.router.weight.data.copy_(theirs.gate.weight.data)
    layer.experts.up.data.copy_(theirs.experts.gate_up_proj.data.transpose(1, 2))
    layer.experts.down.data.copy_(theirs.experts.down_proj.data.transpose(1, 2))
    return layer


def candidates(num_tokens: int, device: str, dtype: torch.dtype) -> Candidates:
    """The timed callables by name; each takes tokens [1, N, D]."""
    made: Candidates = {}
    for mode in MODES:
        if mode != "batched_mm" or num_tokens <= 64:  # it gathers the weights once per token
            made[f"HF {mode}"] = huggingface(mode).to(device, dtype)
    for backend in BACKENDS:
        made[f"ours {backend}"] = ours(backend).to(device, dtype)
    rows = torch.randn(num_tokens * TOP_K, DIM, device=device, dtype=dtype)
    weights = [swiglu_weights(device, dtype) for _ in range(NUM_EXPERTS)]
    cut = rows.chunk(NUM_EXPERTS)
    experts = ours("auto").to(device, dtype).experts
    made["dense"] = lambda _: swiglu(rows, weights[0])
    made["dense, cut"] = lambda _: torch.cat([swiglu(part, weights[0]) for part in cut])
    made["experts"] = lambda _: torch.cat(list(map(swiglu, cut, weights)))
    made["read"] = lambda _: experts.up.sum() + experts.down.sum()
    return made


def swiglu_weights(device: str, dtype: torch.dtype) -> list[Tensor]:
    """Gate, up and down of one layer."""
    shapes = ((HIDDEN, DIM), (HIDDEN, DIM), (DIM, HIDDEN))
    return [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]


def swiglu(rows: Tensor, weights: list[Tensor]) -> Tensor:
    """One feed-forward layer on `rows` [N, D]."""
    gate, up, down = weights
    return F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)


def assert_equal_outputs(made: Candidates, x: Tensor) -> None:
    """Raise AssertionError if two layers have different outputs."""
    tolerance = 1e-4 if x.dtype == torch.float32 else 2e-2
    layers = [name for name in made if name.startswith(("HF", "ours"))]
    wanted = made[layers[0]](x)
    for name in layers[1:]:
        torch.testing.assert_close(made[name](x), wanted, atol=tolerance, rtol=tolerance)


def time_rounds(
    made: Candidates, x: Tensor, num_rounds: int, clock: Callable[[], float], warm_up: int = 3
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after `warm_up` rounds that do not count."""
    taken: dict[str, list[float]] = {name: [] for name in made}
    order = random.Random(0)
    for number in range(-warm_up, num_rounds):
        for name in order.sample(list(made), len(made)):
            _wait(x)
            begin = clock()
            made[name](x)
            _wait(x)
            if number >= 0:
                taken[name].append(clock() - begin)
    return taken


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def table(taken: dict[str, list[float]]) -> Iterator[str]:
    """Markdown rows: median ms, and median ratio to dense, to the fastest of HF, to `read`.

    The last column, shortest time over dense's shortest, is the most robust on a busy machine.
    """
    medians = {name: statistics.median(values) for name, values in taken.items()}
    fastest = min((name for name in taken if name.startswith("HF")), key=medians.__getitem__)
    hf = f"/ fastest HF ({fastest[3:]})"
    yield f"| | median ms | / dense (quartiles) | {hf} | / read | shortest / dense |"
    yield "|---|---|---|---|---|---|"
    for name, values in taken.items():
        low, middle, high = statistics.quantiles(_ratios(values, taken["dense"]), n=4)
        best, floor = (
            statistics.median(_ratios(values, taken[other])) for other in (fastest, "read")
        )
        yield (
            f"| {name} | {medians[name] * 1e3:.2f} | {middle:.2f} ({low:.2f}-{high:.2f}) "
            f"| {best:.2f} | {floor:.1f} | {min(values) / min(taken['dense']):.2f} |"
        )


def _ratios(values: list[float], others: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


@contextmanager
def limit_threads(num_threads: int) -> Iterator[None]:
    """Limit torch to `num_threads` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Options(NamedTuple):
    """What the command line of a study sets."""

    rounds: int
    clock: Callable[[], float]  # seconds
    threads: tuple[int, ...]  # numbers of threads to time with


def read_options(
    module: str, doc: str, *, rounds: int = 40, rounds_help: str | None = None
) -> Options:
    """`--rounds` and `--cpu-time` of the study `tests.studies.MODULE`, whose docstring is `doc`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.studies.{module}", description=doc.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=rounds_help)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU time of one thread instead of the wall clock, for a busy machine",
    )
    args = parser.parse_args()
    if args.cpu_time:
        return Options(args.rounds, time.thread_time, (1,))
    return Options(args.rounds, time.perf_counter, (1, 2))


def main() -> None:
    """Print the tables."""
    options = read_options("kernels", __doc__)
    settings = [("cpu", torch.float32, n) for n in options.threads]
    if torch.cuda.is_available() and options.threads != (1,):
        settings.append(("cuda", torch.bfloat16, 1))
    for device, dtype, num_threads in settings:
        for num_tokens in (1024, 64):
            made = candidates(num_tokens, device, dtype)
            x = torch.randn(1, num_tokens, DIM, device=device, dtype=dtype)
            with limit_threads(num_threads), torch.no_grad():
                assert_equal_outputs(made, x)
                taken = time_rounds(made, x, options.rounds, options.clock)
            print(f"\n{num_tokens} tokens, {device}, {str(dtype)[6:]}, {num_threads} thread(s)\n")
            print(*table(taken), sep="\n", flush=True)


if __name__ == "__main__":
    main()
