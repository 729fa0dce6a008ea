"""Calibration data in two halves, so that what was fitted on one can be chosen on the other.

    FIT       what `convert` and `calibrate` get: thresholds and predictors
    CHOOSE    what operating points are compared on

A method looks better than it is on samples that its thresholds were fitted to. Samples of one
original (a handwritten digit, a passage, a speaker) stay in one half: they are nearly the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from bench.types import Batch, Task, extras_of

FIT, CHOOSE, BOTH = 0, 1, 2
HALVING_SEED = 0
SOURCE = "source"  # the attribute that names each sample's original


def half(task: Task, which: int, batch_size: int) -> Iterator[Batch]:
    """The samples of one half, FIT or CHOOSE, in data order, about `batch_size` at a time.

    A split with one original alone is in both halves.
    """
    halves = membership(task)
    member = torch.from_numpy((halves == which) | (halves == BOTH))
    start = 0
    # Twice the size: half of it remains.
    for batch in task.batches("calibration", 2 * batch_size):
        rows = member[start : start + len(batch)].nonzero()[:, 0]
        start += len(batch)
        if len(rows):
            yield batch.select(rows.to(batch.inputs.device))


def membership(task: Task) -> np.ndarray:
    """The half of every calibration sample, [N]: FIT, CHOOSE or BOTH."""
    originals = sources(task, "calibration")
    if originals is None:
        originals = np.arange(task.num_samples("calibration"))
    numbers = np.unique(originals, return_inverse=True)[1].reshape(-1)
    num_originals = int(numbers.max(initial=-1)) + 1
    if num_originals < 2:
        return np.full(len(numbers), BOTH)
    # A permutation, not the parity: neighbours in data order may belong together.
    order = np.random.default_rng(HALVING_SEED).permutation(num_originals)
    halves: np.ndarray = order[numbers] % 2
    return halves


def sources(task: Task, split: str) -> np.ndarray | None:
    """The original of every sample of `split`, [N]; None where each is one of its own."""
    attributes = extras_of(task).attributes
    found = {} if attributes is None else attributes(split)  # type: ignore[arg-type]
    source = found.get(SOURCE)
    return None if source is None else np.asarray(source)
