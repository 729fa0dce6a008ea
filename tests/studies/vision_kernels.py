"""What vision methods keep of their saving at DeiT's size, and what routing costs (`make kernels`).

    python -m tests.studies.vision_kernels [--rounds N]

Untrained weights, fp32, 1 and 2 threads; ratios are taken inside a round, in which every candidate
runs once in random order.

    realised    speed-up / FLOP ratio, both to dense: 12 blocks, 196 + 1 tokens, 192 and 384 wide.
                Settings fix how much runs; early_exit's thresholds are those of its budget 0.5 on
                the images that are timed
    products    time of a method's matrix products alone (`bare_products`) / time of the method,
                at batch 1: what is missing to 1 is routing
    fixed cost  of a routed layer at width 96 with 16 tokens, beyond its products
    matching    tome's matching / a dense block
    ResNet-50   224 pixels, batch 8: skip_blocks at a forced share of 0.6, slimmable's widths
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.measure.stated_share import force_share
from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.branches.slimmable import Slimmable
from methods.controls.random_tokens import RandomTokens
from methods.experts.moe import MoE
from methods.skipping.early_exit import EarlyExit
from methods.skipping.mixture_of_depths import MixtureOfDepths
from methods.skipping.skip_blocks import SkipBlocks
from methods.sparsity.topk_ffn import TopkFFN
from methods.tokens.dynamic_vit import DynamicViT
from methods.tokens.evit import EViT
from methods.tokens.tome import ToMe, match
from methods.trunk.attention import AttentionView
from methods.trunk.state import State
from methods.trunk.trunk import Trunk
from tests.studies import bare_products
from tests.studies.kernels import Candidates, limit_threads, time_rounds

METHODS: dict[str, Callable[[], Any]] = {
    "tome": ToMe,
    "evit": EViT,
    "dynamic_vit": DynamicViT,
    "random_tokens": RandomTokens,
    "early_exit": partial(EarlyExit, budgets=[0.5]),
    "mixture_of_depths": MixtureOfDepths,
    "moe": MoE,
    "topk_ffn": TopkFFN,
}
WIDTHS, BATCHES, THREADS = (192, 384), (1, 16), (1, 2)
NUM_IMAGES = 8  # of ResNet-50's batch
SHARE = 0.6  # of samples that run a block in skip_blocks
IMAGES = TaskSpec("blank", "image", (3, 224, 224), 1000)
SMALL = TaskSpec("blank", "image", (1, 16, 16), 10)  # 16 tokens
REPEATS = 20  # calls of a layer in one round: one alone takes less than a clock resolves
Taken = dict[str, list[float]]


def dense_trunk(dim: int) -> tuple[Transformer, Trunk]:
    """DeiT of this width, as a backbone and untrained."""
    backbone = Transformer(
        dim=dim,
        depth=12,
        num_heads=dim // 64,
        stem="patch",
        image_stride=16,
        pool="class",
        norm_eps=1e-6,
    )
    return backbone, backbone.build(IMAGES).eval()


def make_models(dim: int) -> dict[str, Any]:
    """Dense and every method at its default operating point, by name."""
    backbone, dense = dense_trunk(dim)
    made: dict[str, Any] = {"dense": dense}
    for name, make in METHODS.items():
        method = make()
        if hasattr(method, "convert"):
            made[name] = method.convert(dense, []).eval()
        else:
            made[name] = method.build(IMAGES, backbone).eval()
        method.set_point(made[name], method.points()[0])
    return made


def bare(name: str, models: dict[str, Any], x: Tensor) -> bare_products.Pass:
    """The products alone of method `name` for one image `x`."""
    dense, model, depth = models["dense"], models[name], 12
    if name in ("moe", "topk_ffn"):
        return bare_products.with_even_groups(model, 2, 197)
    if name == "mixture_of_depths":
        return bare_products.with_routed_lengths(dense, 99)  # ceil(0.5 x 197)
    if name == "early_exit":
        sure = model.confidences(Batch(x, x))[:, 0]  # of the only image, at every exit
        number = 1 + int((sure >= model.threshold).int().argmax())
        return bare_products.with_exits(dense, list(model.heads)[:number])
    if name == "dynamic_vit":  # floor(196 x 0.7^s) and the class token
        lengths = [1 + int(196 * 0.7 ** (block // 3) + 1e-6) for block in range(depth)]
        return bare_products.with_lengths(dense, lengths, lengths)
    method = ToMe() if name == "tome" else EViT()  # random_tokens leaves as many as evit
    behind = method.tokens_left(dense, method.points()[0])
    return bare_products.with_lengths(dense, [197, *behind[:-1]], behind)


def realised(dim: int, rounds: int) -> Iterator[str]:
    """Rows of both tables of one width: a method, and cells for every batch size and threads."""
    models, shares, left = make_models(dim), dict[str, list[str]](), dict[str, list[str]]()
    for size in BATCHES:
        x = torch.randn(size, *IMAGES.input_shape, generator=torch.Generator().manual_seed(size))
        METHODS["early_exit"]().calibrate(models["early_exit"], [Batch(x, x)])
        made = {name: _call(model) for name, model in models.items()}
        flops = {name: count(run, x).total for name, run in made.items()}
        if size == 1:
            made |= {f"{name}, bare": bare(name, models, x) for name in METHODS}
        for cores in THREADS:
            number, warm_up = (rounds, 3) if size == 1 else (max(3, rounds // 4), 1)
            with limit_threads(cores):
                taken = time_rounds(made, x, number, time.perf_counter, warm_up)
            for name in METHODS:
                cost = flops[name] / flops["dense"]
                shares.setdefault(name, []).append(spread(taken["dense"], taken[name], cost))
                if size == 1:
                    cell = spread(taken[f"{name}, bare"], taken[name])
                    left.setdefault(name, []).append(cell)
    for name, cells in shares.items():
        yield f"| {name} | {' | '.join([*cells, *left[name]])} |"


def _call(model: Any) -> Callable[[Tensor], Any]:
    return lambda x: model(Batch(x, x))


def spread(above: list[float], below: list[float], factor: float = 1.0, digits: int = 2) -> str:
    """`factor` x the ratio of two candidates' times: the median over rounds, and its quartiles."""
    ratios = [factor * a / b for a, b in zip(above, below, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def layers() -> dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]]:
    """Routed layers, each with its products alone; all take x [1, 16, 96]."""
    backbone = Transformer(dim=96, depth=2)
    dense: Any = backbone.build(SMALL).eval()
    half = dense.blocks[0]
    mixture: Any = MoE().build(SMALL, backbone).eval()
    sparse: Any = TopkFFN().convert(dense, []).eval()
    routed: Any = MixtureOfDepths().convert(dense, []).eval()
    even = [
        bare_products.EvenGroups(groups, 2 * 16, 96)
        for groups in (mixture.blocks[1].ffn.experts, sparse.blocks[1].ffn.blocks)
    ]
    return {
        "dense block": (lambda x: dense.blocks[1](State(x)), lambda x: None),
        "moe, a layer": (mixture.blocks[1].ffn, even[0]),
        "topk_ffn, a layer": (sparse.blocks[1].ffn, even[1]),
        "mixture_of_depths, a block": (
            lambda x: routed.blocks[1](State(x)),
            lambda x: half(State(x[:, :8])),
        ),
    }


def fixed_costs(rounds: int) -> Iterator[str]:
    """Rows: a layer's time in us, its products' and what is left, for 1 and 2 threads."""
    made: Candidates = {}
    for name, pair in layers().items():
        for part, call in zip(("all", "bare"), pair, strict=True):
            made[f"{name}, {part}"] = partial(_repeat, call)
    x = torch.randn(1, 16, 96)
    cells: dict[str, list[str]] = {}
    for cores in THREADS:
        with limit_threads(cores):
            taken = time_rounds(made, x, rounds, time.perf_counter)
        for name in layers():
            whole, products = taken[f"{name}, all"], taken[f"{name}, bare"]
            rest = [a - b for a, b in zip(whole, products, strict=True)]
            found = [statistics.median(each) / REPEATS * 1e6 for each in (whole, products, rest)]
            cells.setdefault(name, []).extend(f"{value:.0f}" for value in found)
    for name, each in cells.items():
        yield f"| {name} | {' | '.join(each)} |"


def _repeat(call: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    for _ in range(REPEATS):
        call(x)
    return x


def matching(rounds: int) -> Iterator[str]:
    """Rows: tome's matching of 197 tokens as a share of a dense block, by width and batch size."""
    for dim in WIDTHS:
        _, trunk = dense_trunk(dim)
        block: Any = trunk.blocks[0]
        cells = []
        for size in BATCHES:
            x, view = torch.randn(size, 197, dim), AttentionView()
            block.mix(State(x), view=view)
            assert view.keys is not None
            made = {"match": _matched(view.keys), "block": _through(block)}
            for cores in THREADS:
                with limit_threads(cores):
                    taken = time_rounds(made, x, rounds, time.perf_counter)
                cells.append(spread(taken["match"], taken["block"], digits=3))
        yield f"| {dim} | {' | '.join(cells)} |"


def _matched(keys: Tensor) -> Callable[[Tensor], Any]:
    return lambda x: match(keys, None)


def _through(block: Any) -> Callable[[Tensor], Any]:
    return lambda x: block(State(x))


def residual(rounds: int) -> Iterator[str]:
    """Rows: FLOP ratio and realised share of skip_blocks and slimmable on ResNet-50, batch 8."""
    dense = ResNet([3, 4, 6, 3], [64, 128, 256, 512], True, "large", "projection").build(IMAGES)
    x = torch.randn(NUM_IMAGES, *IMAGES.input_shape)
    models: dict[str, Any] = {"dense": dense.eval()}
    models["skip_blocks"] = SkipBlocks().convert(dense, []).eval()
    force_share(models["skip_blocks"], SHARE, Batch(x, x))
    for width in (0.75, 0.5, 0.25):
        method = Slimmable()
        models[f"slimmable, {width}"] = method.convert(dense, []).eval()
        method.set_point(models[f"slimmable, {width}"], {"width": width})
    made = {name: _call(model) for name, model in models.items()}
    flops = {name: count(run, x).total for name, run in made.items()}
    cells: dict[str, list[str]] = {name: [] for name in models if name != "dense"}
    for cores in THREADS:
        with limit_threads(cores):
            taken = time_rounds(made, x, max(3, rounds // 3), time.perf_counter, warm_up=1)
        for name, each in cells.items():
            cost = flops[name] / flops["dense"]
            each.append(spread(taken["dense"], taken[name], cost))
    for name, each in cells.items():
        yield f"| {name} | {flops['dense'] / flops[name]:.2f} | {' | '.join(each)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.vision_kernels", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=12, help="at batch 1; fewer in batches")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    with torch.inference_mode():
        for dim in WIDTHS:
            heading = [f"batch {b}, {c} thread(s)" for b in BATCHES for c in THREADS]
            heading += [f"products / method, batch 1, {c} thread(s)" for c in THREADS]
            show(f"realised, width {dim}", heading, realised(dim, rounds))
        parts = [f"{part}, {c} thread(s)" for c in THREADS for part in ("us", "products", "rest")]
        show("width 96, 16 tokens", parts, fixed_costs(2 * rounds))
        heading = [f"batch {b}, {c} thread(s)" for b in BATCHES for c in THREADS]
        show("tome's matching / a block, width", heading, matching(rounds))
        heading = ["FLOP ratio", *(f"realised, {c} thread(s)" for c in THREADS)]
        show("ResNet-50, batch 8", heading, residual(rounds))


def show(name: str, heading: list[str], rows: Iterator[str]) -> None:
    """Print one table."""
    print(f"\n| {name} | {' | '.join(heading)} |")
    print(f"|{'---|' * (1 + len(heading))}")
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
