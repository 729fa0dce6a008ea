"""Ten synthesised keywords in noise: synthetic data, no recordings.

    formant synthesis (`bench.tasks.parts.speech`) -> change of speed, shift, babble, noise
    -> log-mel spectrogram

No speaker of the test split is in training. Half of the samples are easy and half are hard: with a
larger change of speed, more noise and louder babble of other words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.tasks.parts import speech
from bench.tasks.parts.preloaded import Preloaded, chunks, content_hash
from bench.tasks.parts.scoring import IGNORED, accuracy, cross_entropy, majority, nearest_neighbour
from bench.types import Batch, Extras, Model, Output, Quality, Recipe, Split, TaskSpec

# Phones of `parts.speech`; "_" is the silence before a stop.
KEYWORDS = {
    "yes": "y eh s",
    "no": "n ao uw",
    "up": "ah _ p",
    "down": "d ae uw n",
    "left": "l eh f _ t",
    "right": "r aa ih _ t",
    "on": "aa n",
    "off": "ao f",
    "stop": "s _ t aa _ p",
    "go": "g ao uw",
}
UNSEEN = {"bird": "b er d", "tree": "_ t r iy", "moon": "m uw n", "seven": "s eh b ah n"}
NUM_SPEAKERS: dict[Split, int] = {"train": 40, "calibration": 5, "test": 10}
NUM_SAMPLES: dict[Split, int] = {"train": 5_000, "calibration": 500, "test": 1_000}
SEED = 5  # of the generation, independent of a trial's seed
NUM_MELS, HOP = 32, 160  # a frame every 20 ms
MEAN, DEVIATION = 9.0, 1.18  # of the log-mel values, to normalise a model's inputs

Numbers = NDArray[np.int64]  # [N]


@dataclass
class Keywords(Preloaded):
    """Which of ten words is spoken? Accuracy in percent."""

    version: ClassVar[int] = 2

    @property
    def spec(self) -> TaskSpec:
        num_frames = speech.NUM_FRAMES * speech.FRAME // HOP
        return TaskSpec("keywords", "audio", (NUM_MELS, num_frames), num_outputs=len(KEYWORDS))

    @property
    def extras(self) -> Extras:
        """What the task offers beyond training and scoring."""
        return Extras(split_sizes=NUM_SAMPLES, attributes=self.attributes, unseen=self.unseen)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=500, batch_size=32, lr=1e-3)

    def samples(self) -> Mapping[Split, Batch]:
        return {split: _spectrograms_of(split) for split in NUM_SAMPLES}

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """`difficulty`: easy samples below 0.25, hard ones from 0.5; `source`: the speaker."""
        return {
            "difficulty": generate_waves(split)[1],
            "source": torch.from_numpy(_speakers(split)),
        }

    def data_hash(self) -> str:
        """SHA-256 of the 16-bit waves: the last bits of a spectrogram depend on the machine."""
        return content_hash({split: generate_waves(split)[0] for split in NUM_SAMPLES})

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return cross_entropy(output, batch)

    def evaluate(self, model: Model, batches: Iterable[Batch]) -> Quality:
        return accuracy(model, batches, num_classes=len(KEYWORDS), references=_references())

    def unseen(self) -> Batch:
        """Words other than the ten, undisturbed, by ten speakers of no split."""
        return _spectrograms(unseen_words())


def unseen_words() -> Batch:
    """Waves int16 [N, samples] of words that are none of the ten, without targets."""
    rng = np.random.default_rng([SEED, len(NUM_SAMPLES)])  # a stream of its own: other speakers
    waves = _synthesise(rng, NUM_SPEAKERS["test"], list(UNSEEN.values()))
    return Batch(torch.from_numpy(waves), torch.full((len(waves),), IGNORED))


@cache
def _references() -> dict[str, float]:
    train, test = _spectrograms_of("train"), _spectrograms_of("test")
    return {
        "majority": majority(train.targets, test.targets),
        "nearest neighbour": nearest_neighbour(train, test),
    }


@cache
def _spectrograms_of(split: Split) -> Batch:
    """Log-mel spectrograms of a split, [N, NUM_MELS, frames]."""
    return _spectrograms(generate_waves(split)[0])


def _spectrograms(waves: Batch) -> Batch:
    mels = speech.log_mel(waves.inputs.numpy(), NUM_MELS, HOP)
    return Batch((mels - MEAN) / DEVIATION, waves.targets)


@cache
def generate_waves(split: Split) -> tuple[Batch, Tensor]:
    """Waves int16 [N, samples] of a split with their words, and the difficulty of each, [N]."""
    num_samples = NUM_SAMPLES[split]
    rng = np.random.default_rng([SEED, list(NUM_SAMPLES).index(split)])
    # Clear waves in the order speaker by speaker, word by word: index % 10 is the label.
    clear = _synthesise(rng, NUM_SPEAKERS[split], list(KEYWORDS.values()))
    which = _which(split)
    easy, hard = rng.integers(0, 64, num_samples), rng.integers(128, 257, num_samples)
    difficulty = np.where(rng.integers(0, 2, num_samples) == 1, hard, easy)
    waves = np.concatenate(
        [_disturb(rng, clear, which[part], difficulty[part]) for part in chunks(num_samples, 250)]
    )
    words = torch.from_numpy(which % len(KEYWORDS))
    return Batch(torch.from_numpy(waves), words), torch.from_numpy(difficulty).double() / 256


def _which(split: Split) -> Numbers:
    """The clear wave that each sample is made from, [N]: all words of a speaker, then the next."""
    return np.arange(NUM_SAMPLES[split]) % (NUM_SPEAKERS[split] * len(KEYWORDS))


def _speakers(split: Split) -> Numbers:
    """The speaker of each sample, [N]."""
    return _which(split) // len(KEYWORDS)


def _synthesise(rng: np.random.Generator, num_speakers: int, words: list[str]) -> speech.Wave:
    """Every word spoken by each of `num_speakers` new speakers, [speakers * words, samples]."""
    waves = []
    for _ in range(num_speakers):
        speaker = speech.Speaker(
            pitch_hz=rng.uniform(95, 230), tract=rng.uniform(0.92, 1.2), pace=rng.uniform(0.8, 1.2)
        )
        waves += [speech.speak(word.split(), speaker, rng) for word in words]
    return np.stack(waves)


def _disturb(
    rng: np.random.Generator, clear: speech.Wave, which: Numbers, difficulty: Numbers
) -> speech.Wave:
    """The words `which` [N] at a changed speed and shift, mixed with noise and a second word."""
    num, num_samples = len(which), clear.shape[1]

    def jitter(easiest: int, hardest: int) -> Numbers:
        return rng.integers(-1000, 1001, num) * _between(easiest, hardest, difficulty) // 1000

    word = _resample(clear[which], 256 + jitter(8, 64), jitter(200, 1000))
    behind = clear[rng.integers(0, len(clear), num)]
    babble = _resample(behind, np.full(num, 256), rng.integers(-2000, 2001, num))
    # The sum of two uniforms, in integers: the same on every machine.
    noise = rng.integers(0, 256, (2, num, num_samples), dtype=np.uint8).sum(0, dtype=np.int32)
    loudness = [_between(*ends, difficulty)[:, None] for ends in ((0, 110), (256, 3584))]
    babble_level, noise_level = (level.astype(np.int32) for level in loudness)
    # >> 8: levels are in 1/256. 255 is the mean of the noise.
    mixed = word + (babble * babble_level >> 8) + ((noise - 255) * noise_level >> 8)
    return np.clip(mixed, -32_768, 32_767).astype(np.int16)


def _between(easiest: int, hardest: int, difficulty: Numbers) -> Numbers:
    """Interpolate a setting by `difficulty` [N] in 1/256."""
    return easiest + (hardest - easiest) * difficulty // 256


def _resample(waves: speech.Wave, speed: Numbers, delay: Numbers) -> NDArray[np.int32]:
    """Play `waves` [N, samples] at `speed` / 256 around their middle, `delay` samples later.

    Linear interpolation in integer arithmetic, silence outside.
    """
    num_samples = waves.shape[1]
    # A silent sample before and two after: clipped positions read silence without a branch.
    quiet = np.pad(waves.astype(np.int32), ((0, 0), (1, 2)))
    middle = num_samples // 2
    time = (
        np.arange(-middle, num_samples - middle, dtype=np.int32) - delay.astype(np.int32)[:, None]
    )
    place = time * speed.astype(np.int32)[:, None] + (middle + 1) * 256
    np.clip(place, 0, (num_samples + 1) * 256, out=place)
    before, share = place >> 8, place & 255  # whole samples, and the fraction in 1/256
    before += np.arange(len(waves), dtype=np.int32)[:, None] * quiet.shape[1]
    return quiet.take(before) * (256 - share) + quiet.take(before + 1) * share >> 8
