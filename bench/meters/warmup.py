"""Warming up until times settle: caches, allocators, clocks, compilation and autotuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

from bench.meters.stopwatch import Stopwatch

TOLERANCE = 0.02  # between the medians of two windows in a row
MIN_TURNS = 3  # per window, however long a pass is
CAP = 20  # give up after this many times the asked warm-up: 60 s for the standard 3 s

Passes = tuple[Callable[[int], None], ...]


@dataclass(frozen=True)
class WarmUp:
    """`pass_s`: seconds of one pass of each model, the median of the last window."""

    steady: bool
    elapsed_s: float
    pass_s: tuple[float, ...]


def warm_up(passes: Passes, watch: Stopwatch, warmup_s: float) -> WarmUp:
    """Run the models in turn for at least `warmup_s` and until each one's time has settled.

    `passes`: functions that run a model n times over its inputs. A window is half of `warmup_s`, at
    least three turns. Settled: each model's median pass differs by less than 2 % from the window
    before, or by so little that the middle halves of both windows overlap: that is the machine's
    noise and no trend, and waiting does not end it. Times that never settle give `steady=False`
    after 20 times `warmup_s`.
    """
    start = watch.now_s()
    before = _window(passes, watch, warmup_s / 2)
    while True:
        latest = _window(passes, watch, warmup_s / 2)
        steady = all(map(_settled, before, latest))
        spent = watch.now_s() - start
        if steady or spent >= CAP * warmup_s:
            return WarmUp(steady, spent, tuple(map(median, latest)))
        before = latest


def _settled(before: list[float], after: list[float]) -> bool:
    if abs(median(after) / median(before) - 1) < TOLERANCE:
        return True
    (low, _, high), (new_low, _, new_high) = (quantiles(x, n=4) for x in (before, after))
    return low <= new_high and new_low <= high


def _window(passes: Passes, watch: Stopwatch, least_s: float) -> list[list[float]]:
    """Seconds of each pass, by model, of turns that last at least `least_s` together."""
    times: list[list[float]] = [[] for _ in passes]
    end_s = watch.now_s() + least_s
    while len(times[0]) < MIN_TURNS or watch.now_s() < end_s:
        for which, run in enumerate(passes):
            elapsed = watch.measure(partial(run, 1))
            times[which].append(max(elapsed.host_s, 1e-9))
    return times
