"""Inputs of ImageNet's shape and nothing else: what a method costs on a model of published size.

Pixels and labels are random, no model is trained on them, and there is no quality. FLOPs, time,
memory and energy of random weights are those of trained ones wherever they do not depend on what a
gate has learned; `measure.force_share` states what gates run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.tasks.parts.preloaded import Preloaded
from bench.tasks.parts.scoring import cross_entropy
from bench.types import Batch, Extras, Model, Output, Quality, Range, Recipe, Split, TaskSpec

NUM_CLASSES = 1000
# Few: an image of 3 x 224 x 224 is 600 KB, and a method costs the same on each in the mean.
NUM_SAMPLES: dict[Split, int] = {"train": 64, "calibration": 32, "test": 64}
SEED = 224  # of the pixels, independent of a trial's seed
REASON = "random weights on random inputs: cost only"


@dataclass
class ImagenetShapes(Preloaded):
    """Random images of published size in 1000 classes: cost and time of untrained models.

    `resolution`: height and width in pixels.
    """

    version: ClassVar[int] = 1  # raise it with every change of the data

    resolution: Annotated[int, Range(1)] = 224

    @property
    def spec(self) -> TaskSpec:
        shape = (3, self.resolution, self.resolution)
        return TaskSpec("imagenet_shapes", "image", shape, NUM_CLASSES)

    @property
    def extras(self) -> Extras:
        """The sizes of the splits."""
        return Extras(split_sizes=NUM_SAMPLES)

    @property
    def recipe(self) -> Recipe:
        """No step: nothing is learned from random labels."""
        return Recipe(steps=0, batch_size=16, lr=1e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return _generate(self.resolution)

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """No quality, with the reason; the model is not called."""
        return Quality(math.nan, "accuracy %", "higher", reason=REASON)


@cache
def _generate(resolution: int) -> Mapping[Split, Batch]:
    """Independent pixels of mean 0 and variance 1, as normalised images have."""
    rng = np.random.default_rng(SEED)
    found: dict[Split, Batch] = {}
    for split, num in NUM_SAMPLES.items():
        pixels = rng.integers(0, 256, (num, 3, resolution, resolution), dtype=np.uint8)
        labels = rng.integers(0, NUM_CLASSES, num)
        # 0 to 255 are uniform with deviation 73.9 around 127.5.
        inputs = (torch.from_numpy(pixels).float() - 127.5) / 73.9
        found[split] = Batch(inputs, torch.from_numpy(labels))
    return found
