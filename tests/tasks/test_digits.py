"""The distorted digits: splits, reproducibility, difficulty and baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bench.tasks import digits
from bench.tasks.digits import Digits
from bench.types import Batch, Output, Task

HASH = "f71e868a06d447ff"


def test_it_is_a_task_of_ten_classes() -> None:
    """Images [1, 16, 16] of ten classes, normalised to about mean 0 and deviation 1."""
    task = Digits()
    assert isinstance(task, Task)
    batch = next(iter(task.batches("train", 32, seed=0)))
    assert batch.inputs.shape == (32, *task.spec.input_shape)
    assert set(task.samples()["test"].targets.tolist()) == set(range(task.spec.num_outputs))
    inputs = task.samples()["train"].inputs
    assert abs(inputs.mean()) < 0.05
    assert inputs.std() == pytest.approx(1.0, abs=0.05)


def test_no_source_digit_serves_two_splits() -> None:
    """Every handwritten digit belongs to exactly one split; no split repeats another's image."""
    images, _ = load_digits(return_X_y=True)
    splits = {split: digits._sources(split)[0] for split in digits.NUM_SAMPLES}
    assert sum(map(len, splits.values())) == len(images)
    images_seen = [image.tobytes() for split in splits.values() for image in split]
    assert len(set(images_seen)) == len(np.unique(images, axis=0))


def test_generation_is_reproducible_to_the_bit() -> None:
    """A second generation, and this one on any machine with the pinned numpy, gives these bytes.

    When this fails after a change, raise `Digits.version` with the new hash; when it fails after an
    update of numpy, its random streams have changed.
    """
    first = digits._generate("calibration")[0].inputs.clone()
    digits._generate.cache_clear()
    assert torch.equal(digits._generate("calibration")[0].inputs, first)
    assert Digits().data_hash()[:16] == HASH


def test_difficulty_separates_easy_from_hard() -> None:
    """Three in four samples are easy (< 0.25), the others hard (>= 0.5), in data order."""
    difficulty = Digits().attributes("test")["difficulty"]
    assert len(difficulty) == Digits().num_samples("test")
    easy = difficulty < 0.25
    assert ((difficulty >= 0.5) | easy).all()
    assert difficulty.max() <= 1
    assert easy.double().mean() == pytest.approx(0.75, abs=0.049)  # five standard errors of 2,000


def test_hard_samples_are_further_from_training() -> None:
    """Nearest neighbour among 2,000 training samples is right much more often on easy samples."""
    known = Digits().samples()["train"].select(torch.arange(2_000))
    test, difficulty = Digits().samples()["test"], Digits().attributes("test")["difficulty"]

    def score(rows: torch.Tensor) -> float:
        return digits.nearest_neighbour(known, test.select(rows.nonzero().flatten()))

    assert score(difficulty < 0.25) > score(difficulty >= 0.5) + 20


class Oracle:
    """Returns the target."""

    def __call__(self, batch: Batch) -> Output:
        return Output(torch.nn.functional.one_hot(batch.targets, 10).float())


def test_an_oracle_scores_a_hundred() -> None:
    """A perfect model reaches 100 %; chance, majority and nearest neighbour stand beside it."""
    task = Digits()
    quality = task.evaluate(Oracle(), task.batches("test", 512))
    assert quality.value == 100.0
    assert quality.per_sample is not None
    assert len(quality.per_sample) == task.num_samples("test")
    assert quality.chance == 10.0
    assert quality.references["majority"] < 15
    assert 50 < quality.references["nearest neighbour in 24,000 images"] < 90


def test_unseen_letters_have_no_right_answer() -> None:
    """Letters in place of digits, distorted like the test's digits, without targets."""
    task = Digits()
    unseen, test = task.unseen(), task.samples()["test"]
    assert unseen.inputs.shape == (digits.NUM_LETTERS, *task.spec.input_shape)
    assert (unseen.targets == -100).all()
    assert float(unseen.inputs.mean()) == pytest.approx(float(test.inputs.mean()), abs=0.1)
    assert float(unseen.inputs.std()) == pytest.approx(float(test.inputs.std()), abs=0.1)


def test_letters_are_further_from_the_training_digits_than_digits_are() -> None:
    """Most letters lie further from every training digit than most digits of the test do."""
    task = Digits()
    known = task.samples()["train"].inputs[:12_000].flatten(1)

    def distances(samples: Batch) -> torch.Tensor:
        return torch.cdist(samples.inputs.flatten(1), known).amin(1)

    clean = task.attributes("test")["difficulty"] < 0.25
    digits_away = distances(task.samples()["test"].select(clean.nonzero().flatten()))
    letters_away = distances(task.unseen())
    assert letters_away.median() > digits_away.quantile(0.9)
