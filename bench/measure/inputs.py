"""Which real inputs every meter sees: one fixed, seeded choice from the test split.

The same samples at every batch size, each issued equally often. A repeated easy or hard input would
make an input-dependent model look many times faster or slower than it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.measure.blind import without_targets
from bench.meters.time.sampling import balanced_batches
from bench.types import Batch, Task

CHOICE_SEED = 0  # one choice and order for every method, model seed and machine
# Inputs for the distribution of FLOPs. 256 give a p90 with an interval; a p99 needs 1,000, and
# 2,048 is what a careful profile can afford: a count takes milliseconds.
MIN_TIMED, NUM_COUNTED, MAX_COUNTED = 64, 256, 2048


@dataclass(frozen=True)
class Inputs:
    """Batches by batch size; `by_size[1]`, one batch per sample, is always there."""

    by_size: dict[int, list[Batch]]

    @property
    def samples(self) -> list[Batch]:
        """The inputs one by one."""
        return self.by_size[1]

    @property
    def largest(self) -> int:
        """The largest batch size."""
        return max(self.by_size)

    def num_issued(self, size: int) -> int:
        """Samples in one pass at a batch size: a multiple of the number of inputs."""
        return size * len(self.by_size[size])


def choose_inputs(
    task: Task,
    num_inputs: int,
    batch_sizes: list[int],
    device: torch.device | str,
    *,
    blind: bool = False,
) -> Inputs:
    """`num_inputs` test samples (all, if there are fewer), grouped by each batch size.

    Sizes that do not divide the number of inputs issue every sample several times instead of some
    more often than others. `blind` leaves their targets out.
    """
    # On the device once: copying inputs is no part of a timed pass.
    pool = _prepare(draw_samples(task, num_inputs), device, blind)
    num_chosen = len(pool)

    def batches(size: int) -> list[Batch]:
        rows = balanced_batches(num_chosen, size, seed=CHOICE_SEED).to(device)
        return [pool.select(row) for row in rows]

    # Batch size 1 always: latency and the distribution of FLOPs are per input.
    return Inputs({size: batches(size) for size in sorted({1, *batch_sizes})})


def draw_samples(task: Task, num_samples: int) -> Batch:
    """`num_samples` test samples (all, if there are fewer) of the one fixed order."""
    # One batch of them all: the first of a seeded pass is a sample of the whole split.
    num_drawn = min(num_samples, task.num_samples("test"))
    return next(iter(task.batches("test", num_drawn, seed=CHOICE_SEED)))


def further_inputs(
    task: Task, num_inputs: int, device: torch.device | str, *, blind: bool = False
) -> list[Batch]:
    """Test samples one by one for the distribution of FLOPs, after those of `choose_inputs`.

    Together at least 256; from 256 timed inputs on, all up to 2,048. A trial in miniature, with
    fewer than 64, gets none.
    """
    num_more = _num_counted(num_inputs) - num_inputs
    more: list[Batch] = []
    if num_more <= 0 or num_inputs >= task.num_samples("test"):
        return more
    # Groups of `num_inputs` in the same order: the first is exactly what `choose_inputs` took.
    groups = iter(task.batches("test", num_inputs, seed=CHOICE_SEED))
    next(groups)
    for group in groups:
        pool = _prepare(group, device, blind)
        rows = torch.arange(min(len(pool), num_more - len(more)), device=device)
        more += [pool.select(row) for row in rows[:, None]]
        if len(more) >= num_more:
            break
    return more


def _num_counted(num_inputs: int) -> int:
    if num_inputs < MIN_TIMED:
        return num_inputs
    return NUM_COUNTED if num_inputs < NUM_COUNTED else MAX_COUNTED


def _prepare(pool: Batch, device: torch.device | str, blind: bool) -> Batch:
    pool = pool.to(device)
    return without_targets(pool) if blind else pool
