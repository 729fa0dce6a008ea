"""Warming up until times settle: caches, allocators, clocks, compilation and autotuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.meters.stopwatch import Stopwatch

TOLERANCE = 0.02  # between the medians of the last two windows
WINDOW = 10  # blocks per window; fewer (at least three) when a single pass is long
CAP = 20  # give up after this many times the asked warm-up: 60 s for the standard 3 s


@dataclass(frozen=True)
class WarmUp:
    """`pass_s`: seconds of one pass of each model, the shortest seen in the last window."""

    steady: bool
    elapsed_s: float
    pass_s: tuple[float, ...]


def warm_up(passes: tuple[Callable[[int], None], ...], watch: Stopwatch, warmup_s: float) -> WarmUp:
    """Run the models in turn for at least `warmup_s` and until each one's time has settled.

    `passes`: functions that run a model n times over its inputs. Settled: the medians of the last
    two windows of blocks differ by less than 2 %. A model's two windows span about `warmup_s`.
    Times that never settle give `steady=False` after 20 times `warmup_s`.
    """
    start = watch.now_s()
    first = [max(watch.measure(partial(run, 1)).host_s, 1e-9) for run in passes]
    block_s = warmup_s / (2 * WINDOW * len(passes))
    repeats = [max(1, math.ceil(block_s / pass_s)) for pass_s in first]
    window = max(3, min(WINDOW, math.ceil(warmup_s / (2 * sum(first)))))
    seen: list[list[float]] = [[] for _ in passes]
    while True:
        for which, run in enumerate(passes):
            elapsed = watch.measure(partial(run, repeats[which]))
            seen[which].append(max(elapsed.host_s / repeats[which], 1e-9))
        spent = watch.now_s() - start
        if len(seen[0]) < 2 * window or spent < warmup_s:
            continue
        steady = all(_settled(times, window) for times in seen)
        if steady or spent >= CAP * warmup_s:
            return WarmUp(steady, spent, tuple(min(times[-window:]) for times in seen))


def _settled(times: list[float], window: int) -> bool:
    before, after = median(times[-2 * window : -window]), median(times[-window:])
    return abs(after / before - 1) < TOLERANCE
