"""Distorted digits: the scikit-learn digits, rotated, shifted, cluttered and noisy.

The 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI) are so easy that a
2-block network matches an 8-block one. Here each is drawn on a 16 x 16 canvas with random rotation,
scale and position, strokes cut from other digits, uneven light, lower contrast and more noise.
Three in four samples are easy and one is hard, so that a method can spend compute where it pays.
The data are a synthetic variation of real handwriting, generated from a fixed seed in integer
arithmetic (`bench.tasks.parts.canvas`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from bench.tasks.parts import canvas, letters
from bench.tasks.parts.preloaded import Preloaded, chunks
from bench.tasks.parts.scoring import IGNORED, accuracy, cross_entropy, majority, nearest_neighbour
from bench.types import Batch, Extras, Model, Output, Quality, Recipe, Split, TaskSpec

SIZE = 16  # pixels
NUM_SAMPLES: dict[Split, int] = {"train": 64_000, "calibration": 8_000, "test": 8_000}
NUM_NEIGHBOURS = 24_000  # training samples searched by the nearest-neighbour baseline
# Disjoint: no handwritten digit of the test split is in training, in whatever distortion.
SOURCES: dict[Split, slice] = {
    "train": slice(0, 1_200),
    "calibration": slice(1_200, 1_400),
    "test": slice(1_400, 1_797),
}
SEED = 20  # of the generation, independent of a trial's seed
NUM_LETTERS = 500  # out-of-distribution samples
NUM_FRAGMENTS = 4_000  # different strokes of clutter per split
DARK = 20  # background brightness: noise may also go below it
MEAN, DEVIATION = 78.0, 58.0  # of the brightness, to normalise a model's inputs


@dataclass
class Digits(Preloaded):
    """Which digit is it? Ten classes; accuracy in percent."""

    version: ClassVar[int] = 2  # raise it with every change of the data or of their scoring

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("digits", "image", (1, SIZE, SIZE), num_outputs=10)

    @property
    def extras(self) -> Extras:
        """What the task offers beyond training and scoring."""
        return Extras(split_sizes=NUM_SAMPLES, attributes=self.attributes, unseen=self.unseen)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=500, batch_size=48, lr=2e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return {split: _generate(split)[0] for split in NUM_SAMPLES}

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`difficulty`: easy samples below 0.25, hard ones from 0.5; `source`: the digit."""
        return {"difficulty": _generate(split)[1], "source": torch.from_numpy(_origins(split))}

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        return accuracy(model, batches, num_classes=10, references=_references())

    def unseen(self) -> Batch:
        """Letters, disguised as the digits of the test are: none of the classes is right."""
        rng = np.random.default_rng([SEED, len(NUM_SAMPLES)])
        fragments = _fragments(rng, _sources("test")[0])
        shapes = letters.draw_letters()
        which = np.arange(NUM_LETTERS) % len(shapes)
        drawn = _distort(rng, shapes[which], _difficulty(rng, NUM_LETTERS), fragments)
        return Batch(_inputs(drawn), torch.full((NUM_LETTERS,), IGNORED))


@cache
def _references() -> dict[str, float]:
    test = _generate("test")[0]
    train = _generate("train")[0].select(torch.arange(NUM_NEIGHBOURS))
    return {
        "majority": majority(train.targets, test.targets),
        f"nearest neighbour in {NUM_NEIGHBOURS:,} images": nearest_neighbour(train, test),
    }


@cache
def _generate(split: Split) -> tuple[Batch, Tensor]:
    """The samples of a split and the difficulty of each, [N] in 0..1."""
    images, labels = _sources(split)
    num_samples = NUM_SAMPLES[split]
    # A random stream per split: another number of training samples leaves the test unchanged.
    rng = np.random.default_rng([SEED, list(NUM_SAMPLES).index(split)])
    # The order of draws below is part of the data: moving a line changes the hash.
    source = _origins(split)
    difficulty = _difficulty(rng, num_samples)
    fragments = _fragments(rng, images)
    drawn = [
        _distort(rng, images[source[part]], difficulty[part], fragments)
        for part in chunks(num_samples, 1_000)
    ]
    batch = Batch(_inputs(np.concatenate(drawn)), torch.from_numpy(labels[source]))
    return batch, torch.from_numpy(difficulty).double() / canvas.ONE


def _origins(split: Split) -> canvas.Numbers:
    """The handwritten digit that each sample is drawn from, [N]: each about equally often."""
    num_digits = len(_sources(split)[1])
    return np.arange(NUM_SAMPLES[split]) % num_digits


def _inputs(drawn: canvas.Image) -> Tensor:
    """Brightness [N, 16, 16] as normalised model inputs, [N, 1, 16, 16]."""
    return (torch.from_numpy(drawn).float().unsqueeze(1) - MEAN) / DEVIATION


def _sources(split: Split) -> tuple[canvas.Image, canvas.Numbers]:
    """The handwritten digits of a split, [N, 8, 8] with brightness 0..240, and their labels [N]."""
    images, labels = load_digits(return_X_y=True)  # shipped with scikit-learn: no download
    order = np.random.default_rng(SEED).permutation(len(labels))[SOURCES[split]]
    # scikit-learn counts ink from 0 to 16: times 15 it fits a byte.
    return (images[order].reshape(-1, 8, 8) * 15).astype(np.int32), labels[order].astype(np.int64)


def _difficulty(rng: np.random.Generator, num_samples: int) -> canvas.Numbers:
    """In 1/256: below a quarter for three in four samples, from one half to one for the others."""
    easy = rng.integers(0, 64, num_samples)
    hard = rng.integers(128, 257, num_samples)
    return np.where(rng.integers(0, 4, num_samples) < 3, easy, hard)


def _distort(
    rng: np.random.Generator,
    digits: canvas.Image,
    difficulty: canvas.Numbers,
    fragments: canvas.Image,
) -> canvas.Image:
    """Draw `digits` [N, 8, 8] on canvases [N, 16, 16]; every distortion grows with difficulty."""
    num = len(digits)

    def between(easiest: int, hardest: int) -> canvas.Numbers:
        return easiest + (hardest - easiest) * difficulty // canvas.ONE

    def jitter(easiest: int, hardest: int) -> canvas.Numbers:
        return rng.integers(-1000, 1001, num) * between(easiest, hardest) // 1000

    drawn = canvas.warp(
        digits,
        SIZE,
        degrees=jitter(3, 25),
        zoom=340 + jitter(10, 50),
        down=jitter(100, 480),
        right=jitter(100, 480),
    )
    for threshold in (64, 192):  # one stroke of clutter for hard samples, two for the hardest
        clutter = fragments[rng.integers(0, len(fragments), num)]
        cluttered = (difficulty > threshold)[:, None, None]
        drawn = np.where(cluttered, np.maximum(drawn, clutter), drawn)
    contrast = canvas.ONE - rng.integers(0, 1001, num) * between(36, 176) // 1000
    noise = canvas.noise(rng, drawn.shape) * between(6, 22)[:, None, None] // 148
    light = canvas.slope(SIZE, degrees=rng.integers(0, 360, num), height=between(20, 60))
    final = drawn * contrast[:, None, None] // canvas.ONE + noise + light + DARK
    return np.clip(final, 0, 255).astype(np.int32)


def _fragments(rng: np.random.Generator, images: canvas.Image) -> canvas.Image:
    """Strokes cut from `images` and placed anywhere on a canvas, [NUM_FRAGMENTS, 16, 16]."""
    num = NUM_FRAGMENTS
    strokes = canvas.cut(
        images[rng.integers(0, len(images), num)],
        degrees=rng.integers(0, 360, num),
        offset=rng.integers(0, 400, num),
    )
    placed = canvas.warp(
        strokes,
        SIZE,
        degrees=rng.integers(0, 360, num),
        zoom=np.full(num, 340),
        down=rng.integers(-1700, 1701, num),
        right=rng.integers(-1700, 1701, num),
    )
    return placed * 3 // 4  # fainter than the digit itself, which would else be ambiguous
