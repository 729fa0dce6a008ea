"""Digits and keywords through one trunk: which parts of a network serve which task?

The spectrograms of `keywords` become 16 x 16 pictures and stand beside those of `digits`: twenty
classes, the digits first. A router that has learnt the difference sends the two apart;
`attributes` says which sample is which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from bench.tasks import keywords
from bench.tasks.digits import SIZE, Digits
from bench.tasks.parts import speech
from bench.tasks.parts.preloaded import SPLITS, Preloaded
from bench.tasks.parts.scoring import accuracy, cross_entropy, majority, nearest_neighbour
from bench.types import Batch, Model, Output, Quality, Recipe, Split, TaskSpec

NUM_DIGITS = 10
HOP = speech.NUM_FRAMES * speech.FRAME // SIZE  # as many frames as a digit has columns
NAMES = ("digits", "keywords")


@dataclass
class Multitask(Preloaded):
    """Ten digits and ten keywords; accuracy in percent over both, and of each."""

    version: ClassVar[int] = 1
    split_sizes: ClassVar[Mapping[Split, int]] = {
        split: 2 * count for split, count in keywords.NUM_SAMPLES.items()
    }
    task_names: ClassVar[tuple[str, ...]] = NAMES  # by the attribute `task`

    @property
    def spec(self) -> TaskSpec:
        num_outputs = NUM_DIGITS + len(keywords.KEYWORDS)
        return TaskSpec("multitask", "image", (1, SIZE, SIZE), num_outputs)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=800, batch_size=32, lr=1e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return {split: _both(split) for split in SPLITS}

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`task`: 0 for a digit, 1 for a keyword; `difficulty` as each of the two states it."""
        num_each = keywords.NUM_SAMPLES[split]
        of_digits = Digits().attributes(split)["difficulty"][:num_each]
        of_keywords = keywords.Keywords().attributes(split)["difficulty"]
        return {
            "task": (_both(split).targets >= NUM_DIGITS).long(),
            "difficulty": torch.cat([of_digits, of_keywords]),
        }

    def data_hash(self) -> str:
        """SHA-256 over the hashes of both tasks' data."""
        both = Digits().data_hash() + keywords.Keywords().data_hash()
        return hashlib.sha256(both.encode()).hexdigest()

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """Accuracy over all samples; `more` has each task's own."""
        held = list(batches)
        quality = accuracy(model, held, num_classes=20, references=_references())
        task = torch.cat([batch.targets.cpu() for batch in held]) >= NUM_DIGITS
        scores = torch.tensor(quality.per_sample)
        each = {name: scores[task == number] for number, name in enumerate(NAMES)}
        return replace(quality, more={k: float(v.mean()) for k, v in each.items() if len(v)})

    def unseen(self) -> Batch:
        """As many letters as other words: what neither of the two tasks has a class for."""
        other_words = keywords.unseen_words()
        letters = Digits().unseen().select(torch.arange(len(other_words)))
        return _pictures(letters, other_words)


@cache
def _references() -> dict[str, float]:
    train, test = _both("train"), _both("test")
    return {
        "majority": majority(train.targets, test.targets),
        "nearest neighbour": nearest_neighbour(train, test),
    }


def _digits(split: Split) -> Batch:
    """As many digits as there are keywords."""
    return Digits().samples()[split].select(torch.arange(keywords.NUM_SAMPLES[split]))


@cache
def _both(split: Split) -> Batch:
    """Pictures [N, 1, 16, 16] of both tasks, the digits first."""
    waves = keywords.spoken(split)[0]
    return _pictures(_digits(split), Batch(waves.inputs, waves.targets + NUM_DIGITS))


def _pictures(digits: Batch, waves: Batch) -> Batch:
    """Digits, and then waves as spectrograms of the digits' size."""
    mels = speech.log_mel(waves.inputs.numpy(), SIZE, HOP)
    sound = ((mels - keywords.MEAN) / keywords.DEVIATION)[:, None]  # [N, 1, mels, frames]
    return Batch(torch.cat([digits.inputs, sound]), torch.cat([digits.targets, waves.targets]))
