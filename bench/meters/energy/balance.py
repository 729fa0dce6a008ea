"""The balance of a window: what the counter gained, less what the board drew without work.

    work = gained - level x rest time - what the board drew above that level while it fell

The last part is uncertain. Power that arrives after the work is the board's own, which falls
slowly, or the work's, which a late sensor shows late. Where counter and power disagree, the one
that falls first is right. Where both fall slowly nothing tells the two apart, and the whole amount
stands in the uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.meters.energy.rest import Rest, mean_w
from bench.meters.energy.settling import Settled
from bench.statistics import LEVEL

COVERAGE = 2.0  # standard deviations for 95 %
UNSEEN = 0.05  # of the time without a fresh reading, in which the board itself may still fall
MIN_PHASES = 4  # stretches of work; fewer scatter too little by chance
LAGS_S = np.linspace(0.0, 1.0, 101)  # of a counter, tried against the scatter of the stretches

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Balance:
    """One window: rests with a stretch of work between each two. All amounts are of the window.

    The first rest begins, and the last one ends, at an update of a settled counter.
    """

    rests: tuple[Rest, ...]
    head: Settled  # before the work
    tail: Settled  # after it
    resolution_mj: int
    period_s: float

    @property
    def begin_s(self) -> float:
        """The update before the work."""
        return self.rests[0].begin_s

    @property
    def end_s(self) -> float:
        """The update at which the counter had settled after the work."""
        return self.rests[-1].end_s

    @property
    def work_s(self) -> float:
        """Seconds of work."""
        return sum(self._stretches_s)

    @property
    def gained_j(self) -> float:
        """What the counter gained, rests included."""
        return self._between_j(0, len(self.rests) - 1)

    @property
    def around_j(self) -> float:
        """What the board drew before the first and after the last stretch of work."""
        return self._drawn_j(0) + self._drawn_j(len(self.rests) - 1)

    @property
    def between_j(self) -> float:
        """What the board drew between stretches of work."""
        return sum(self._drawn_j(k) for k in range(1, len(self.rests) - 1))

    @property
    def between_s(self) -> float:
        """Seconds between stretches of work."""
        return sum(rest.seconds for rest in self.rests[1:-1])

    @cached_property
    def work_j(self) -> float:
        """What the board drew with work."""
        return self.gained_j - self.around_j - self.between_j

    @property
    def num_phases(self) -> int:
        """Stretches of work, each begun at another phase of the counter's period."""
        return len(self.rests) - 1

    @cached_property
    def chance_j(self) -> float:
        """By chance, 95 %: updates, the counter's steps, idle power, and scatter of the phases.

        The scatter of the phases contains the others, so that the larger of the two counts.
        """
        if self.num_phases >= MIN_PHASES:
            return max(COVERAGE * self._deviation_j, self._phases_j)
        # A sensor that samples counts a whole period or none at either end of the only stretch.
        ends_j = self._fall_w * self.period_s / math.sqrt(6)
        return COVERAGE * math.hypot(self._deviation_j, ends_j)

    @cached_property
    def lag_j(self) -> float:
        """What may have arrived late, alike in every window: the work drew up to this much more."""
        late_j = self._share * self._falling_j
        return (
            # Below its own noise nothing has arrived late.
            (late_j if late_j > COVERAGE * self._deviation_j else 0.0)
            + UNSEEN * sum(self._unseen_j(rest) for rest in self.rests[1:])
            + self.head.left_j
            + self.tail.left_j
        )

    def _unseen_j(self, rest: Rest) -> float:
        """Joules above the level, if the board stayed as it was while no reading showed it."""
        if rest.worked_w is None:
            return 0.0
        # A reading is stale until it changes; one that falls late is an average.
        blind_s = min(self.period_s, max(rest.stale_s, (1 - self._share) * rest.seconds))
        return max(0.0, rest.worked_w - self._settled_w) * blind_s

    @property
    def _fall_w(self) -> float:
        """Watts by which the board falls when work ends."""
        return max(0.0, self.work_j / self.work_s - self.tail.level_w)

    @property
    def _stretches_s(self) -> list[float]:
        pairs = zip(self.rests, self.rests[1:], strict=False)
        return [after.begin_s - before.end_s for before, after in pairs]

    def _between_j(self, first: int, last: int) -> float:
        """Gain of the counter between the updates that end two rests."""
        return (self.rests[last].edges[-1].energy_mj - self.rests[first].edges[-1].energy_mj) / 1e3

    def _drawn_j(self, number: int, begin_s: float | None = None) -> float:
        """Joules of a rest, or of its end from `begin_s` on."""
        rest = self.rests[number]
        level_w = (self.head if number == 0 else self.tail).level_w
        seconds = rest.end_s - (rest.begin_s if begin_s is None else begin_s)
        above_j = 0.0 if number == 0 else rest.above_j(self._settled_w, begin_s)
        return level_w * seconds + self._share * above_j

    @cached_property
    def _settled_w(self) -> float:
        """Power reading of the settled board; it may differ from the counter by the sensors."""
        return mean_w(self._settled_samples)

    @property
    def _settled_samples(self) -> tuple:
        samples, begin_s = self.rests[-1].samples, self.tail.steady[0].time_s
        settled = tuple(sample for sample in samples if sample.time_s >= begin_s)
        return settled or samples[-1:]

    @property
    def _falling_j(self) -> float:
        """Joules above the settled level in all rests after work, by the power readings."""
        return sum(rest.above_j(self._settled_w) for rest in self.rests[1:])

    @cached_property
    def _share(self) -> float:
        """The share of that which the counter confirms: 0 where it fell at once and power did not.

        Compared from the first update after the work on: before it, the counter shows nothing.
        """
        rest, first = self.rests[-1], self.tail.edges[0]
        by_power_j = rest.above_j(self._settled_w, first.time_s)
        gained_j = (rest.edges[-1].energy_mj - first.energy_mj) / 1e3
        by_counter_j = gained_j - self.tail.level_w * (rest.end_s - first.time_s)
        noise_j = COVERAGE * self._deviation_j
        if by_power_j <= noise_j:
            return 1.0
        return min(1.0, max(0.0, by_counter_j + noise_j) / (by_power_j + noise_j))

    @cached_property
    def _deviation_j(self) -> float:
        """One standard deviation: times of both updates, the counter's steps, idle power."""
        ends = (self.rests[0].edges[-1], self.rests[-1].edges[-1])
        # Uniform distributions of width w have a deviation of w / sqrt(12): each of the updates
        # over its edge, each of the counts over a step.
        edges_j = self.tail.level_w * math.hypot(*(edge.width_s for edge in ends)) / math.sqrt(12)
        steps_j = self.resolution_mj / 1e3 / math.sqrt(6)
        spread_w = float(np.std([sample.power_w for sample in self._settled_samples]))
        idle_j = [spread_w * r.seconds / math.sqrt(len(r.samples)) for r in self.rests[1:]]
        # The level of the settled counter is subtracted for the whole time.
        steady = self.tail.steady
        level_s = steady[-1].time_s - steady[0].time_s
        level_w = math.hypot(steps_j, self.tail.level_w * steady[0].width_s / math.sqrt(12))
        resting_s = sum(rest.seconds for rest in self.rests)
        return math.hypot(edges_j, steps_j, *idle_j, level_w / level_s * resting_s)

    @cached_property
    def _phases_j(self) -> float:
        """Half a width of Student's t for the mean power over phases."""
        num = self.num_phases
        seconds = np.array(self._stretches_s)
        watts = np.array([self._stretch_j(k) for k in range(num)]) / seconds
        # From the end of the work to the update after it; the last one is that of a settled board.
        waits_s = np.array([r.edges[-1].time_s - r.begin_s for r in self.rests[1:]])
        squares = min(
            float(((fixed - fixed.mean()) ** 2).sum())
            for fixed in (watts + late_w(lag_s, waits_s, seconds, self._fall_w) for lag_s in LAGS_S)
        )
        # Two parameters were fitted: the mean and the lag.
        error_w = math.sqrt(squares / (num - 2) / num)
        return error_w * float(stdtrit(num - 2, (1 + LEVEL) / 2)) * self.work_s

    def _stretch_j(self, number: int) -> float:
        """Joules of one stretch of work: from the update in the rest before to that after it."""
        before, after = self.rests[number], self.rests[number + 1]
        begin_j = self._drawn_j(number, before.edges[-1].time_s)
        end_j = self._drawn_j(number + 1) - self._drawn_j(number + 1, after.edges[-1].time_s)
        return self._between_j(number, number + 1) - begin_j - end_j


def late_w(lag_s: float, waits_s: Vector, seconds: Vector, fall_w: float) -> Vector:
    """What each stretch's power lacks less what it has of the one before, in a counter that lags.

    `waits_s` from the end of each stretch to the update that ends its count, [phases].
    """
    lacks_j = fall_w * np.maximum(0.0, lag_s - waits_s)
    lacks_j[-1] = 0.0  # the counter had settled
    return (lacks_j - np.concatenate([[0.0], lacks_j[:-1]])) / seconds
