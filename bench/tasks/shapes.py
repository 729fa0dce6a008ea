"""Inputs of a given shape and nothing else: what a model costs at the size that a paper states.

Pixels and symbols are random, nothing is learned from them, and there is no quality. Parameters and
executed FLOPs of random weights are those of trained ones wherever no learned gate decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, ClassVar, cast

import torch
from torch import Tensor

from bench.tasks.imagenet_shapes import REASON
from bench.tasks.parts.preloaded import Preloaded
from bench.tasks.parts.scoring import cross_entropy
from bench.types import (
    Batch,
    Extras,
    Kind,
    Model,
    OneOf,
    Output,
    Quality,
    Range,
    Recipe,
    Split,
    TaskSpec,
    check_fields,
)

# Few: an image of 3 x 224 x 224 is 600 KB, and most models cost the same on each.
NUM_SAMPLES: dict[Split, int] = {"train": 8, "calibration": 8, "test": 16}
SEED = 0  # of the values, independent of a trial's seed
NUM_AXES = {"image": 3, "audio": 2, "tokens": 1, "seq2seq": 2}


@dataclass
class Shapes(Preloaded):
    """Random inputs of a shape: parameters and FLOPs of untrained models at published sizes.

    `shape`: channels, height and width of an image; mel bands and frames; tokens; source and target
    tokens of a pair. `num_outputs`: classes, or the vocabulary of tokens and pairs, of which
    `causal` ones predict the next symbol.
    """

    version: ClassVar[int] = 1  # raise it with every change of the data

    kind: Annotated[str, OneOf(*NUM_AXES)] = "image"
    shape: list[Annotated[int, Range(1)]] = field(default_factory=lambda: [3, 224, 224])
    num_outputs: Annotated[int, Range(1)] = 1000
    causal: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a shape that is none of its kind."""
        check_fields(self)
        if len(self.shape) != NUM_AXES[self.kind]:
            raise ValueError(f"shape={self.shape}: kind={self.kind} has {NUM_AXES[self.kind]} axes")

    @property
    def spec(self) -> TaskSpec:
        symbols = self.kind in ("tokens", "seq2seq")
        pair = self.kind == "seq2seq"
        return TaskSpec(
            "shapes",
            cast("Kind", self.kind),
            tuple(self.shape[:1] if pair else self.shape),
            self.num_outputs,
            vocab_size=self.num_outputs if symbols else None,
            causal=self.causal,
            target_length=self.shape[1] if pair else None,
        )

    @property
    def extras(self) -> Extras:
        """The sizes of the splits."""
        return Extras(split_sizes=NUM_SAMPLES)

    @property
    def recipe(self) -> Recipe:
        """No step: nothing is learned from random targets."""
        return Recipe(steps=0, batch_size=8, lr=1e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return _generate(self.kind, tuple(self.shape), self.num_outputs, self.causal)

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """No quality: the model is not called."""
        return Quality(math.nan, "accuracy %", "higher", reason=REASON)


@lru_cache(maxsize=4)
def _generate(
    kind: str, shape: tuple[int, ...], num_outputs: int, causal: bool
) -> Mapping[Split, Batch]:
    generator = torch.Generator().manual_seed(SEED)

    def symbols(num: int, *lengths: int) -> Tensor:
        return torch.randint(num_outputs, (num, *lengths), generator=generator)

    def batch(num: int) -> Batch:
        if kind == "seq2seq":
            targets = symbols(num, shape[1])
            return Batch(symbols(num, shape[0]), targets, decoder_inputs=targets.roll(1, 1))
        if kind == "tokens":
            return Batch(symbols(num, *shape), symbols(num, *shape) if causal else symbols(num))
        return Batch(torch.randn(num, *shape, generator=generator), symbols(num))

    return {split: batch(num) for split, num in NUM_SAMPLES.items()}
