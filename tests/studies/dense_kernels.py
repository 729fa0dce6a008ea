"""Time ratios of this project's dense ViT, GPT-2 and ResNet to Hugging Face's (`make kernels`).

    python -m tests.studies.dense_kernels [--rounds N] [--cpu-time]

Stem, head and some blocks of DeiT-Ti (4 blocks, 224 pixels), of GPT-2 small (3 blocks, 64 tokens,
a small vocabulary) and of ResNet-18 (4 blocks, 64 pixels) with equal weights and equal outputs, at
batch 1 and 64, with 1 and 2 threads, fp32. Hugging Face's use PyTorch's fused attention (`sdpa`),
their default. Each round times both in random order; ratios are taken within a round. The limit
is 1.05, as a slow baseline would flatter every method. Exit code 1 if a median is above it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from bench.types import Batch
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from tests.references import huggingface
from tests.references.huggingface_resnet import resnet
from tests.studies.kernels import Candidates, limit_threads, read_options, time_rounds

LIMIT = 1.05
VIT = Transformer(
    dim=192, depth=4, num_heads=3, stem="patch", image_stride=16, pool="class", norm_eps=1e-6
)
GPT2 = Transformer(dim=768, depth=3, num_heads=12, activation="gelu_tanh", tied_embeddings="output")
RESNET = ResNet([2, 2], [64, 128], stem="large", shortcut="projection")
VOCABULARY, LENGTH = 512, 64
BATCHES = (1, 64)


def vit() -> Candidates:
    """Both by name; each takes images [B, 3, 224, 224]."""
    theirs, ours = huggingface.vit(VIT, image_size=224, num_classes=1000)
    return {"HF": lambda x: theirs(x).logits, "ours": lambda x: ours(Batch(x, x)).logits}


def gpt2() -> Candidates:
    """Both by name; each takes tokens [B, 64]."""
    theirs, ours = huggingface.gpt2(GPT2, VOCABULARY, LENGTH)
    return {
        "HF": lambda x: theirs(x, use_cache=False).logits,
        "ours": lambda x: ours(Batch(x, x)).logits,
    }


def residual() -> Candidates:
    """Both by name; each takes images [B, 3, 64, 64]."""
    theirs, ours = resnet(RESNET, image_size=64, num_classes=1000)
    return {"HF": lambda x: theirs(x).logits, "ours": lambda x: ours(Batch(x, x)).logits}


def images(size: int) -> Tensor:
    return torch.randn(size, 3, 224, 224)


def tokens(size: int) -> Tensor:
    return torch.randint(VOCABULARY, (size, LENGTH))


def small_images(size: int) -> Tensor:
    return torch.randn(size, 3, 64, 64)


MODELS: dict[str, tuple[Callable[[], Candidates], Callable[[int], Tensor]]] = {
    "DeiT-Ti, 4 blocks": (vit, images),
    "GPT-2 small, 3 blocks": (gpt2, tokens),
    "ResNet, 4 basic blocks": (residual, small_images),
}


def time_pair(
    made: Candidates, x: Tensor, rounds: int, clock: Callable[[], float], cores: int
) -> dict[str, list[float]]:
    """Seconds of both in every round. Raises AssertionError where their outputs differ."""
    with limit_threads(cores), torch.inference_mode():
        torch.testing.assert_close(made["ours"](x), made["HF"](x), atol=1e-3, rtol=1e-3)
        return time_rounds(made, x, rounds, clock)


def judge(taken: dict[str, list[float]]) -> tuple[str, bool]:
    """Both medians and the ratio (median, quartiles) as cells, and whether it is in the limit."""
    ratios = [a / b for a, b in zip(taken["ours"], taken["HF"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    theirs, ours = (statistics.median(taken[each]) * 1e3 for each in ("HF", "ours"))
    verdict = "ok" if middle <= LIMIT else f"above {LIMIT}"
    cells = f"{theirs:.2f} | {ours:.2f} | {middle:.3f} ({low:.3f}-{high:.3f}) | {verdict}"
    return cells, middle <= LIMIT


def main() -> int:
    """Print the table; returns 1 if a ratio exceeds the limit, else 0."""
    options = read_options("dense_kernels", __doc__, rounds_help="at batch 1; a quarter at 64")
    print("\n| model | batch | threads | HF ms | ours ms | ours / HF (quartiles) | |")
    print("|---|---|---|---|---|---|---|")
    all_kept = True
    for name, (make, draw) in MODELS.items():
        made = make()
        for size in BATCHES:
            for cores in options.threads:
                rounds = max(4, options.rounds if size == 1 else options.rounds // 4)
                cells, is_kept = judge(time_pair(made, draw(size), rounds, options.clock, cores))
                print(f"| {name} | {size} | {cores} | {cells} |", flush=True)
                all_kept &= is_kept
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
