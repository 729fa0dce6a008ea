"""The order in which training sees its samples, and each rank's share of a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from bench import ranks
from bench.config import NUM_SEEDS
from bench.types import Batch, Task


class EndlessBatches:
    """Passes over the train split one after the other, each in its own seeded order.

    With several ranks each gets its own samples of every batch.
    """

    def __init__(self, task: Task, batch_size: int, seed: int) -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed

    def __iter__(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            # Seeds are below NUM_SEEDS, so no order of one seed is also an order of another.
            order = self.seed + NUM_SEEDS * epoch
            for batch in self.task.batches("train", self.batch_size, seed=order):
                yield batch if ranks.group_size() == 1 else _select_local(batch)


def _select_local(batch: Batch) -> Batch:
    """The samples of this rank: every `group_size()`-th, starting at its rank."""
    # All ranks draw the whole batch and keep a part: the union is what one process would see.
    return batch.select(torch.arange(ranks.rank(), len(batch), ranks.group_size()))
