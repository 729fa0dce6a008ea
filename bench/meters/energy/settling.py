"""Waiting until nothing of the work is still to arrive in the counter.

A counter may lag behind its board, or integrate an average of the last second. What it shows
before it has settled still contains the work before, and a window that ends then misses some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.meters.energy.calibration import Calibration
from bench.meters.energy.edges import NUM_TRIES, SHARP, Edge, wait_for_edge
from bench.meters.energy.polling import Sample
from bench.meters.energy.rest import level_w
from bench.meters.energy.rig import Rig

STEADY_S, STEADY_PERIODS = 0.3, 4  # of equal power, whichever is longer
LONGEST_S = 3.0  # then the board is taken as it is, and what may still arrive is estimated
UNKNOWN_S = 1.2  # the least where a late counter could not be seen: averages are of a second
EQUAL = 0.02  # largest relative difference between the halves of a steady stretch
LOWERED = 1.5  # times the idle power: above it a steady level may be the work's, arriving late
LONGEST_LAG_S = 2.0  # assumed of what still arrives where the power falls on


@dataclass(frozen=True)
class Settled:
    """The updates while the board settled, its level at their end, and what had not arrived."""

    edges: tuple[Edge, ...]
    steady: tuple[Edge, ...]  # the last of them, from which the level is
    left_j: float  # joules above the level before the work that may still arrive

    @property
    def level_w(self) -> float:
        """Watts of the settled board."""
        return level_w(self.steady)


def settle(
    rig: Rig,
    known: Calibration,
    low_w: float,
    samples: list[Sample],
    every_s: float,
    least_s: float = 0.0,
) -> Settled:
    """Wait for updates until counter and power are steady and below `low_w`, or 3 s have passed.

    `least_s`: of updates in any case, where the work before may not have been distinct from rest.
    Appends a sample to `samples`, which has one, about every `every_s`. The last update is sharp,
    or is the fifth that is not. Raises as `wait_for_edge` does.
    """
    period_s = known.update_period_s
    num = max(STEADY_PERIODS, math.ceil(STEADY_S / period_s))
    # A counter that is seldom updated gets the time for one steady stretch at least.
    longest_s = max(LONGEST_S, 2 * num * period_s)
    sample, edges, num_late, is_settled = sampler(rig, samples, every_s), list[Edge](), 0, False
    while True:
        edges.append(wait_for_edge(rig.board, rig.clock, known.timeout_s, sample))
        if len(edges) <= num:
            continue
        steady = edges[-num - 1 :]
        is_settled = is_settled or (
            is_steady(steady, known)
            and level_w(steady) <= low_w
            and edges[-1].time_s - edges[0].time_s >= least_s
            and has_steady_power([s for s in samples if s.time_s >= steady[0].time_s])
        )
        if is_settled or edges[-1].time_s - edges[0].time_s > longest_s:
            if edges[-1].width_s <= SHARP * period_s or num_late == NUM_TRIES:
                break
            num_late += 1
    # Steady and high is a board that idles at more power now, not one that still falls.
    left = 0.0 if is_settled or is_steady(steady, known) else left_j(steady, known.idle_w)
    return Settled(tuple(edges), tuple(steady), left)


def sampler(rig: Rig, samples: list[Sample], every_s: float) -> Callable[[], None]:
    """A function that samples the board where the last of `samples` is older than `every_s`.

    To be called between reads of the counter: a sample at every read would make updates less
    certain in time.
    """

    def sample() -> None:
        if rig.clock.now_s() - samples[-1].time_s >= every_s:
            samples.append(rig.sample())

    return sample


def is_steady(edges: Sequence[Edge], known: Calibration) -> bool:
    """Whether both halves of the stretch have the same power, but for the counter's steps."""
    first, second = halves_j(edges, known.update_period_s)
    step_j = 2 * known.resolution_mj / 1e3 / (len(edges) // 2)
    return abs(first - second) <= max(EQUAL * second, step_j)


def has_steady_power(samples: Sequence[Sample]) -> bool:
    """Whether both halves of the readings have the same mean, but for their scatter."""
    powers = np.array([sample.power_w for sample in samples])
    half = len(powers) // 2
    if not half:
        return True
    first, second = powers[:half], powers[-half:]
    scatter = 2 * math.hypot(float(first.std()), float(second.std())) / math.sqrt(half)
    return bool(abs(first.mean() - second.mean()) <= max(EQUAL * second.mean(), scatter))


def halves_j(edges: Sequence[Edge], period_s: float) -> tuple[float, float]:
    """Mean joules of an update in either half; by number, because a busy host's times are rough."""
    gains = [
        # A read that came late may have missed updates in between.
        (b.energy_mj - a.energy_mj) / 1e3 / max(1, round((b.time_s - a.time_s) / period_s))
        for a, b in pairwise(edges)
    ]
    half = len(gains) // 2
    return sum(gains[:half]) / half, sum(gains[-half:]) / half


def left_j(edges: Sequence[Edge], idle_w: float) -> float:
    """What falls on after the last update, as an exponential: joules above `idle_w`."""
    middle = edges[len(edges) // 2]
    first_w, second_w = level_w([edges[0], middle]), level_w([middle, edges[-1]])
    above_w = second_w - idle_w
    if above_w <= 0 or first_w <= second_w:
        return 0.0
    # The time constant from the fall between the halves, which are as far apart as one is long.
    lag_s = above_w * (edges[-1].time_s - middle.time_s) / (first_w - second_w)
    return above_w * min(lag_s, LONGEST_LAG_S)
