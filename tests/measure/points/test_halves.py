"""Calibration data in two halves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.measure.points.halves import BOTH, CHOOSE, FIT, half, membership
from bench.types import Batch, Extras


class Task:
    """`originals[i]` is the original of sample i, whose input is i."""

    def __init__(self, originals: list[int] | None, num_samples: int) -> None:
        self.originals, self.count = originals, num_samples

    @property
    def extras(self) -> Extras:
        return Extras(attributes=self._attributes if self.originals else None)

    def _attributes(self, split: str) -> Mapping[str, Tensor]:
        assert split == "calibration"
        return {"source": torch.tensor(self.originals)}

    def num_samples(self, split: str) -> int:
        return self.count

    def batches(self, split: str, batch_size: int) -> Iterator[Batch]:
        for start in range(0, self.count, batch_size):
            numbers = torch.arange(start, min(start + batch_size, self.count))
            yield Batch(numbers, numbers)


def samples(task: Any, which: int, batch_size: int = 4) -> list[int]:
    return [int(i) for batch in half(task, which, batch_size) for i in batch.inputs]


def test_originals_stay_together() -> None:
    """Twelve samples of four originals: two originals in each half, every sample in one."""
    task = Task([0, 1, 2, 3] * 3, 12)
    fit, choose = samples(task, FIT), samples(task, CHOOSE)
    assert sorted(fit + choose) == list(range(12))
    assert len(fit) == len(choose) == 6
    assert {i % 4 for i in fit}.isdisjoint(i % 4 for i in choose)


def test_without_originals_samples_are_drawn() -> None:
    """Each sample is one of its own; halves are in data order and not one of them in front."""
    fit, choose = (samples(Task(None, 101), which) for which in (FIT, CHOOSE))
    assert (len(fit), len(choose)) == (51, 50)
    assert fit == sorted(fit)
    assert max(fit) > 90 > 10 > min(choose)


def test_the_same_halves_whatever_the_batch_size() -> None:
    """What a method was fitted on does not depend on how it was read."""
    task = Task(None, 37)
    assert samples(task, FIT, 1) == samples(task, FIT, 64)


def test_one_original_is_in_both() -> None:
    """Nothing to divide: both halves are all of it."""
    task = Task([5, 5, 5], 3)
    assert samples(task, FIT) == samples(task, CHOOSE) == [0, 1, 2]
    assert (membership(SimpleNamespace(num_samples=lambda split: 1)) == np.array([BOTH])).all()  # type: ignore[arg-type]
