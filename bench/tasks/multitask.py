"""Digits and keywords through one trunk: which parts of a network serve which task?

The spectrograms of `keywords` become 16 x 16 images and are mixed with those of `digits`: twenty
classes, the digits first. A router that has learnt the difference separates the two tasks;
the attribute `task` labels each sample with its own.
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
from bench.types import Batch, Extras, Model, Output, Quality, Recipe, Split, TaskSpec

NUM_DIGITS = 10
HOP = speech.NUM_FRAMES * speech.FRAME // SIZE  # as many frames as a digit has columns
NAMES = ("digits", "keywords")


@dataclass
class Multitask(Preloaded):
    """Ten digits and ten keywords; accuracy in percent over both, and of each."""

    version: ClassVar[int] = 2
    split_sizes: ClassVar[Mapping[Split, int]] = {
        split: 2 * count for split, count in keywords.NUM_SAMPLES.items()
    }

    @property
    def spec(self) -> TaskSpec:
        num_outputs = NUM_DIGITS + len(keywords.KEYWORDS)
        return TaskSpec("multitask", "image", (1, SIZE, SIZE), num_outputs)

    @property
    def extras(self) -> Extras:
        """What the task offers beyond training and scoring."""
        return Extras(
            split_sizes=self.split_sizes,
            attributes=self.attributes,
            task_names=NAMES,
            unseen=self.unseen,
        )

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=800, batch_size=32, lr=1e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return {split: _combined(split) for split in SPLITS}

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`task`: 0 for a digit, 1 for a keyword; `difficulty` and `source` as in each."""
        num_each = keywords.NUM_SAMPLES[split]
        digits = {name: each[:num_each] for name, each in Digits().attributes(split).items()}
        words = keywords.Keywords().attributes(split)
        # Behind the digits: no speaker may share a number with a digit.
        speakers = words["source"] + digits["source"].max() + 1
        return {
            "task": (_combined(split).targets >= NUM_DIGITS).long(),
            "difficulty": torch.cat([digits["difficulty"], words["difficulty"]]),
            "source": torch.cat([digits["source"], speakers]),
        }

    def data_hash(self) -> str:
        """SHA-256 over the hashes of both tasks' data."""
        # Not over the images: a spectrogram's last bits depend on the machine.
        both = Digits().data_hash() + keywords.Keywords().data_hash()
        return hashlib.sha256(both.encode()).hexdigest()

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        """Accuracy over all samples; `more` has each task's own."""
        held = list(batches)  # an iterable may allow one pass only
        quality = accuracy(model, held, num_classes=20, references=_references())
        task = torch.cat([batch.targets.cpu() for batch in held]) >= NUM_DIGITS
        scores = torch.tensor(quality.per_sample)
        # A part of the data may hold one of the two tasks only.
        each = {name: scores[task == number] for number, name in enumerate(NAMES)}
        return replace(quality, more={k: float(v.mean()) for k, v in each.items() if len(v)})

    def unseen(self) -> Batch:
        """As many letters as other words: what neither of the two tasks has a class for."""
        other_words = keywords.unseen_words()
        letters = Digits().unseen().select(torch.arange(len(other_words)))
        return _combine(letters, other_words)


@cache
def _references() -> dict[str, float]:
    train, test = _combined("train"), _combined("test")
    return {
        "majority": majority(train.targets, test.targets),
        "nearest neighbour": nearest_neighbour(train, test),
    }


def _digits(split: Split) -> Batch:
    """As many digits as there are keywords, so that neither task dominates the loss."""
    return Digits().samples()[split].select(torch.arange(keywords.NUM_SAMPLES[split]))


@cache
def _combined(split: Split) -> Batch:
    """Images [N, 1, 16, 16] of both tasks, the digits first."""
    waves = keywords.generate_waves(split)[0]
    return _combine(_digits(split), Batch(waves.inputs, waves.targets + NUM_DIGITS))


def _combine(digits: Batch, waves: Batch) -> Batch:
    """Digits, followed by waves as spectrograms of the digits' size."""
    mels = speech.log_mel(waves.inputs.numpy(), SIZE, HOP)
    sound = ((mels - keywords.MEAN) / keywords.DEVIATION)[:, None]  # [N, 1, mels, frames]
    return Batch(torch.cat([digits.inputs, sound]), torch.cat([digits.targets, waves.targets]))
