"""A candidate against a baseline in several processes: rounds nested in processes.

    work = PairedWork(method, dense, {1: singles, 64: batches}, rounds=3, ...)
    found = replicate(work, replicas)          # by batch size
    found[64].ratio, found[64].medians         # exp of the mean of each process's typical log ratio

Each process also times an A/A control, the baseline against its twin, built a second time and sent
through the same steps. What identical models differ by there is what this trial cannot resolve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.meters.conditions import pinned_threads
from bench.meters.shared.state import SharedState, in_words
from bench.meters.time.paired import Model, PairedTiming, compare, copy_or_same
from bench.meters.time.replicas import Replicas
from bench.meters.time.rounds import Round
from bench.statistics.intervals import Interval, num_outliers
from bench.statistics.processes import BETWEEN_SESSIONS, process_interval, process_medians

CONTROL_ROUNDS = 2  # of the A/A control, in every process
CONTROL_WARMUP = 1 / 3  # of the warm-up: the machine is warm, only the copy's caches are cold


@dataclass(frozen=True)
class PairedWork:
    """What one process times: every batch size in turn, then its control. Can be pickled.

    `rounds`, `warmup_s`, `block_ms` as in `compare`. `autocast`: device kind and number format, as
    a new process does not inherit it. `twin`: the baseline, built once more; by default a copy.
    Where the candidate is the baseline (the dense model's own row) it is timed against the twin,
    and is its own control.
    """

    candidate: Model
    baseline: Model
    batches: Mapping[int, Sequence[Any]]
    rounds: int
    warmup_s: float
    block_ms: float
    num_threads: int
    autocast: tuple[str, torch.dtype] | None = None
    twin: Model | None = None

    def __call__(self) -> dict[int, Pair]:
        """Timing and control by batch size."""
        shared = SharedState()
        with pinned_threads(self.num_threads), self._format():
            found = {size: self._time(batches) for size, batches in self.batches.items()}
        # Once, and not per block as the settings: all functions take ten milliseconds.
        changes = shared.changes()
        return {size: pair.voided(changes) for size, pair in found.items()} if changes else found

    def _format(self) -> Any:
        return nullcontext() if self.autocast is None else torch.autocast(*self.autocast)

    def _other(self) -> Model:
        """The control's second model. One object timed twice would share its place in memory."""
        is_built = self.twin is not None and self.twin is not self.baseline
        return self.twin if is_built and self.twin else copy_or_same(self.baseline)

    def _time(self, batches: Sequence[Any]) -> Pair:
        paired = partial(compare, batches=batches, block_ms=self.block_ms)
        warmup_s, other = self.warmup_s, self._other()
        if self.candidate is self.baseline:
            timing = paired(self.candidate, other, rounds=self.rounds, warmup_s=warmup_s)
            return Pair(timing, timing)
        timing = paired(self.candidate, self.baseline, rounds=self.rounds, warmup_s=warmup_s)
        warmup_s *= CONTROL_WARMUP
        control = paired(self.baseline, other, rounds=CONTROL_ROUNDS, warmup_s=warmup_s)
        return Pair(timing, control)


@dataclass(frozen=True)
class Pair:
    """One process's timing at one batch size, and its A/A control."""

    timing: PairedTiming
    control: PairedTiming

    def voided(self, changes: Sequence[str]) -> Pair:
        """The same with no round that counts: one model changed what the other runs under."""
        reason = in_words("a timed model", changes)
        return Pair(*(_voided(each, reason) for each in (self.timing, self.control)))


def _voided(timing: PairedTiming, reason: str) -> PairedTiming:
    return replace(timing, rounds=tuple(replace(each, reason=reason) for each in timing.rounds))


@dataclass(frozen=True)
class ReplicatedTiming:
    """The timings of all processes at one batch size. Ratios are baseline / candidate time."""

    pairs: tuple[Pair, ...]
    requested: int  # valid rounds in every process
    medians: np.ndarray = field(init=False)  # log ratio of each process [P]; empty without any

    def __post_init__(self) -> None:
        valid = [[r.log_ratio for r in pair.timing.valid_rounds] for pair in self.pairs]
        valid = [rounds for rounds in valid if rounds]
        object.__setattr__(self, "medians", process_medians(valid) if valid else np.array([]))

    @property
    def timings(self) -> list[PairedTiming]:
        """Each process's timing."""
        return [pair.timing for pair in self.pairs]

    @property
    def interval(self) -> Interval | None:
        """The ratio with these processes' interval, sessions included; None without a round."""
        if not len(self.medians):
            return None
        return process_interval(self.medians, None, BETWEEN_SESSIONS).map(math.exp)

    @property
    def noise_floor(self) -> float | None:
        """The largest deviation from 1 of identical models in any process."""
        valid = [[r.log_ratio for r in pair.control.valid_rounds] for pair in self.pairs]
        valid = [rounds for rounds in valid if rounds]
        return float(np.abs(np.expm1(process_medians(valid))).max()) if valid else None

    @property
    def reason(self) -> str | None:
        """Why the ratio may not be shown; None where it may."""
        for timing in self.timings:
            num_valid = len(timing.valid_rounds)
            if timing.num_recompiles:
                return f"{timing.num_recompiles} graphs were compiled inside the timed rounds"
            if num_valid < self.requested:
                why = next((r.reason for r in timing.rounds if r.reason), "unknown")
                return f"only {num_valid} of {self.requested} rounds count: {why}"
            if not timing.steady:
                return "times never settled in the warm-up"
        return None

    @property
    def rounds(self) -> list[Round]:
        """The rounds of all processes, in order."""
        return [each for timing in self.timings for each in timing.rounds]

    @property
    def process_of_rounds(self) -> list[int]:
        """The number of the process in which each of `rounds` ran."""
        return [k for k, timing in enumerate(self.timings) for _ in timing.rounds]

    @property
    def candidate_samples_per_s(self) -> float:
        """Throughput of the candidate: the median over processes."""
        return float(np.median([timing.candidate_samples_per_s for timing in self.timings]))

    @property
    def candidate_device_share(self) -> float | None:
        """Device time / host time of the candidate; None on a CPU."""
        found = [timing.candidate_device_share for timing in self.timings]
        shares = [share for share in found if share is not None]
        return float(np.median(shares)) if shares else None

    @property
    def num_outliers(self) -> int:
        """Rounds beyond three interquartile ranges of their own process; kept."""
        logs = [[r.log_ratio for r in timing.valid_rounds] for timing in self.timings]
        return sum(num_outliers(rounds) for rounds in logs if rounds)


def replicate(work: PairedWork, replicas: Replicas | None) -> dict[int, ReplicatedTiming]:
    """Do `work` in every replica, or in this process where there are none; by batch size.

    Raises ReplicaError where the models cannot be sent, or a replica fails.
    """
    found = [work()] if replicas is None else replicas.run(work)
    return {
        size: ReplicatedTiming(tuple(each[size] for each in found), work.rounds)
        for size in work.batches
    }
