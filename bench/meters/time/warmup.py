"""Warming up until times settle: caches, allocators, clocks, compilation and autotuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

import numpy as np

from bench.meters.time.stopwatch import Stopwatch

# A turn is one pass of every model. Medians of two windows of WINDOW_S may differ by TOLERANCE, in
# proportion less where windows are shorter: drift grows with time.
TOLERANCE, WINDOW_S = 0.02, 1.5
NO_TREND = 1.64  # Mann-Kendall's z: noise without drift exceeds it in one check of ten
MIN_TURNS, FEW_TURNS, LONG_S = 10, 6, 3.0  # turns at least; FEW where they took LONG_S
NEXT_TURNS = 5  # between two checks; FEW_TURNS // 2 where those took LONG_S
MAX_POINTS = 64  # of a trend, medians of neighbouring turns: its cost grows with their square
CAP = 20  # stop after this many times the requested warm-up: 60 s for the standard 3 s
# Between the last turns, which alternate, and timed blocks of one model: caches are worth less.
MAX_CHANGE = 1.5
SURE_TREND = 2.58  # z of rounds: noise without drift exceeds it in one session of a hundred
MIN_ROUNDS = 6

Passes = tuple[Callable[[int], None], ...]


@dataclass(frozen=True)
class WarmUp:
    """Result of a warm-up. `pass_s`: seconds of a pass of each model, median of the last window."""

    steady: bool
    elapsed_s: float
    pass_s: tuple[float, ...]


def warm_up(passes: Passes, watch: Stopwatch, warmup_s: float) -> WarmUp:
    """Run the models in turn for at least `warmup_s` and ten passes, until each has settled.

    `passes`: functions that run a model n times over its inputs. Of the turns so far the first
    third is left out; the rest makes two windows. Settled: the medians of each model's windows
    differ by less than 2 % (windows of 1.5 s; less in proportion where they are shorter), or the
    middle halves of both windows overlap and the turns show no trend: that is the machine's noise,
    which waiting does not reduce. Where passes are long, six are enough. The first turn, which
    compiles and loads, counts as a turn but not as time. Times that never settle give
    `steady=False` after 20 times `warmup_s`. A start that is slow for longer than all of this shows
    in the rounds that follow: `stays_steady`.
    """
    turns = _Turns(passes, watch)
    turns.run(0.0, 1, 1)
    turns.run(warmup_s, MIN_TURNS - 1, FEW_TURNS - 1)
    while True:
        steady = all(_has_settled(times, turns.window_s) for times in turns.later_times())
        if steady or turns.ends_s[-1] - turns.ends_s[0] >= CAP * warmup_s:
            latest = (times[len(times) // 2 :] for times in turns.later_times())
            spent_s = turns.ends_s[-1] - turns.start_s
            return WarmUp(steady, spent_s, tuple(map(median, latest)))
        turns.run(warmup_s / 2, NEXT_TURNS, FEW_TURNS // 2)


def stays_steady(warm: WarmUp, rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the timed rounds go on as the warm-up ended; False where that was not steady.

    `rounds`: seconds of a pass of each model, by round. A model whose whole warm-up was its slow
    start gets faster in them (or slower: a clock that falls): its second half differs from its
    first beyond noise, or all of it from the end of the warm-up by half and more.
    """
    return warm.steady and all(
        _goes_on(list(times), pass_s)
        for times, pass_s in zip(rounds, warm.pass_s, strict=True)
        if len(times) >= MIN_ROUNDS
    )


def _goes_on(times: list[float], pass_s: float) -> bool:
    change = median(times) / pass_s
    if not 1 / MAX_CHANGE < change < MAX_CHANGE:
        return False
    return _has_settled(times, WINDOW_S, SURE_TREND)


class _Turns:
    """Every turn so far: each model's seconds, and when the turn ended."""

    def __init__(self, passes: Passes, watch: Stopwatch) -> None:
        self.passes, self.watch = passes, watch
        self.start_s = watch.now_s()
        self.times: list[list[float]] = [[] for _ in passes]
        self.ends_s: list[float] = []

    def run(self, least_s: float, least: int, few: int) -> None:
        """Further turns: `least_s` and `least` of them, or `few` where they take LONG_S."""
        begin_s, num = self.watch.now_s(), 0
        spent_s = 0.0
        while spent_s < least_s or num < (few if spent_s >= LONG_S else least):
            for times, run in zip(self.times, self.passes, strict=True):
                # Never 0, which a coarse clock may return: medians are divided by each other.
                times.append(max(self.watch.measure(partial(run, 1)).host_s, 1e-9))
            self.ends_s.append(self.watch.now_s())
            spent_s, num = self.ends_s[-1] - begin_s, num + 1

    def later_times(self) -> list[list[float]]:
        """Each model's turns without the first third, which holds first runs and compilation."""
        return [times[len(times) // 3 :] for times in self.times]

    @property
    def window_s(self) -> float:
        """Seconds that half of those turns took, all models together."""
        return (self.ends_s[-1] - self.ends_s[len(self.ends_s) // 3]) / 2


def _has_settled(times: list[float], window_s: float, max_trend: float = NO_TREND) -> bool:
    before, after = times[: len(times) // 2], times[len(times) // 2 :]
    change = abs(median(after) / median(before) - 1)
    if change < TOLERANCE * min(1.0, window_s / WINDOW_S):
        return True
    # Overlapping interquartile ranges alone would accept a steady drift inside wide noise.
    (low, _, high), (new_low, _, new_high) = (quantiles(x, n=4) for x in (before, after))
    return low <= new_high and new_low <= high and _trend(times) < max_trend


def _trend(times: list[float]) -> float:
    """Mann and Kendall's z, absolute: evidence that later turns are slower, or faster."""
    groups = np.array_split(np.array(times), min(len(times), MAX_POINTS))
    points = np.array([np.median(group) for group in groups])
    rises = np.sign(points[None, :] - points[:, None])  # [earlier, later]
    num = len(points)
    # Standard deviation of the sum of signs without a trend; -1 below is the continuity correction.
    spread = math.sqrt(num * (num - 1) * (2 * num + 5) / 18)
    return max(0.0, abs(float(np.triu(rises).sum())) - 1) / spread
