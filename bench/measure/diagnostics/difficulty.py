"""Does a model spend more on harder inputs? Rank correlation of its FLOPs with difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats
from torch import Tensor

from bench.measure.inputs import Inputs
from bench.types import Batch, Task, extras_of

MATCHING_BATCH = 256


class NoCorrelation(Exception):
    """There is nothing to correlate; the message says why."""


def compute_difficulty_correlation(task: Task, inputs: Inputs, flops: np.ndarray) -> float:
    """Spearman's coefficient between FLOPs per input and the task's attribute `difficulty`.

    `flops` [num_inputs] in the order of `inputs.samples`. Raises NoCorrelation.
    """
    attributes = attributes_of(task)
    if "difficulty" not in attributes:
        raise NoCorrelation("the task states no difficulty of its samples")
    difficulty = attributes["difficulty"].numpy()[places(task, inputs.samples)]
    if len(np.unique(flops)) < 2:
        raise NoCorrelation("every input costs the same")
    if len(np.unique(difficulty)) < 2:
        raise NoCorrelation("every input is equally difficult")
    return float(stats.spearmanr(flops, difficulty).statistic)


def attributes_of(task: Task) -> Mapping[str, Tensor]:
    """Facts about every test sample, in data order; empty where the task has none."""
    attributes = extras_of(task).attributes
    return attributes("test") if attributes is not None else {}


def places(task: Task, batches: Sequence[Batch]) -> list[int]:
    """Where each sample of `batches` stands in the test split's own order, found by its content.

    Raises NoCorrelation where samples repeat.
    """
    where: dict[bytes, int] = {}
    for batch in task.batches("test", MATCHING_BATCH):
        for key in _contents(batch):
            where.setdefault(key, len(where))
    if len(where) != task.num_samples("test"):
        raise NoCorrelation("test samples repeat: which is which is unknown")
    return [where[key] for batch in batches for key in _contents(batch)]


def _contents(batch: Batch) -> list[bytes]:
    return [row.tobytes() for row in batch.inputs.cpu().numpy()]  # models see no targets here
