"""The cross-check of a window: the power readings integrated over the same time as the counter.

Both sensors may be wrong, so what they differ by is a part of the uncertainty. Power that swings
between two readings is integrated with an error of its own, which is estimated from the readings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.meters.energy.balance import MIN_PHASES
from bench.meters.energy.polling import Sample, integral_j
from bench.meters.energy.rest import Rest

Piece = tuple[float, float, Sequence[Sample]]  # begin, end, at least one sample
TOGETHER = 0.9  # of the changes of power: at an update of the counter
COVERAGE = 2.0  # standard deviations for 95 %
SWING = 0.05  # relative deviation of the power: below it load and sensor cannot be far out of step


@dataclass(frozen=True)
class Crosscheck:
    """Joules by the power readings beside those by the counter, rests included."""

    power_j: float | None  # None: fewer than two readings
    counter_j: float
    deviation_j: float = 0.0  # one standard deviation of `power_j`, by the swing of the power
    swings: bool = False

    @property
    def apart_j(self) -> float:
        """Counter less power; 0 where the scatter of steady power explains it."""
        if self.power_j is None:
            return 0.0
        apart_j = self.counter_j - self.power_j
        return apart_j if self.swings or abs(apart_j) > COVERAGE * self.deviation_j else 0.0

    @property
    def polled_j(self) -> float:
        """What swinging power may be integrated wrongly by, 95 %."""
        return COVERAGE * self.deviation_j if self.swings else 0.0


def check_counter(rests: Sequence[Rest], samples: Sequence[Sample], counter_j: float) -> Crosscheck:
    """Compare the counter's gain with the integral of the power from the first rest to the last.

    `samples` were taken beside the work. The power jumps between rests and work, so that each is
    integrated for itself. Of a single stretch nothing else checks the counter: there the scatter
    of steady power counts as well.
    """
    pieces: list[Piece] = [(rest.begin_s, rest.end_s, rest.samples) for rest in rests]
    working: list[Sample] = []
    for before, after in pairwise(rests):
        begin_s, end_s = before.end_s, after.begin_s
        during = [s for s in samples if begin_s < s.time_s < end_s]
        # A stretch shorter than a poll has the power around it.
        pieces.append((begin_s, end_s, during or before.samples[-1:] + after.samples[:1]))
        working += during
    if len(working) < 2:
        return Crosscheck(None, counter_j)
    is_alone = len(rests) <= MIN_PHASES
    powers = np.array([sample.power_w for sample in working])
    swings = is_alone or float(powers.std()) > SWING * float(powers.mean())
    power_j = sum(_piece_j(piece) for piece in pieces)
    polled = [_distinct(samples) if is_alone else samples for _, _, samples in pieces]
    deviation_j = math.hypot(*(_deviation_j(samples) for samples in polled))
    return Crosscheck(power_j, counter_j, deviation_j, swings)


def _piece_j(piece: Piece) -> float:
    begin_s, end_s, samples = piece
    # Twice the last: one sample is enough, whose power is then that of the whole piece.
    return integral_j([*samples, samples[-1]], begin_s, end_s) or 0.0


def _distinct(samples: Sequence[Sample]) -> Sequence[Sample]:
    """One sample for each update of the counter, where power readings change with it only.

    Such a reading may be the very sample that the counter adds up: it is no check in between.
    """
    both = list(pairwise(samples))
    changed = [(a, b) for a, b in both if a.power_w != b.power_w]
    num_together = sum(a.energy_mj != b.energy_mj for a, b in changed)
    if num_together < TOGETHER * len(changed):
        return samples
    return [*samples[:1], *(b for a, b in both if a.energy_mj != b.energy_mj)]


def _deviation_j(samples: Sequence[Sample]) -> float:
    """One standard deviation of a trapezoid sum over the samples.

    A jump between two samples h apart may be at any time in between: change x h / sqrt(12). Power
    that swings faster than it is read gives independent samples: change x h / sqrt(2). Which of the
    two it is follows from changes over two intervals, which have twice the variance of those over
    one where jumps are rare, and the same where samples are independent.
    """
    if len(samples) < 2:
        return 0.0
    times = np.array([sample.time_s for sample in samples])
    powers = np.array([sample.power_w for sample in samples])
    once, twice = np.diff(powers) ** 2, (powers[2:] - powers[:-2]) ** 2
    if not once.sum():
        return 0.0
    independent = min(1.0, max(0.0, 2 - float(twice.mean() / once.mean()))) if len(twice) else 1.0
    share = independent / 2 + (1 - independent) / 12
    return math.sqrt(share * float((once * np.diff(times) ** 2).sum()))
