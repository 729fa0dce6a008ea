"""Ratios from several processes: rounds are nested in processes, and processes are what is sampled.

What changes between processes (where weights and code lie in memory, page placement, which core a
thread gets) stays the same for all rounds of one. An interval over the rounds of one process
therefore does not hold in the next session (Kalibera and Jones 2013, Rigorous Benchmarking in
Reasonable Time; Georges et al. 2007, Statistically Rigorous Java Performance Evaluation).
Sessions differ by more than their processes do, and a session alone cannot show it: their part is
a constant that a study of many sessions measured.

    pooled = pool([log_ratios_of_moe, log_ratios_of_early_exit, ...])
    found = process_interval(log_ratios_of_moe, pooled, BETWEEN_SESSIONS)     # .map(math.exp)

`log_ratios` has one vector per process: log(baseline time / candidate time) of its rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtri, stdtrit

from bench.statistics.intervals import LEVEL, ROUNDING, Interval

MIN_PROCESSES = 2
NO_SPREAD = "equal in all processes: no spread is seen"
# A trial keeps its own spread where an F test against the others' rejects at this level. Of six
# trials with three processes each, one with ten times the others' spread is then covered in 94 %
# (1 %: 92 %), one with twice their spread in 85 % (81 %); equal trials lose nothing.
HETEROGENEITY = 0.05


@dataclass(frozen=True)
class Spread:
    """The variance of one process's typical log ratio around that of all processes.

    `df`: degrees of freedom. The noise of a process's few rounds is part of it.
    """

    variance: float
    df: float

    @property
    def sd(self) -> float:
        """Standard deviation of the log ratio between processes: nearly the relative one."""
        return math.sqrt(self.variance)

    def without(self, part: Spread) -> Spread | None:
        """The spread of the other trials that were pooled; None where `part` is all there is."""
        df = self.df - part.df
        if df <= 0:
            return None
        rest = self.variance * self.df - part.variance * part.df
        return Spread(max(0.0, rest) / df, df)  # below 0: rounding


# What sessions differ by beyond their processes: of 12 sessions of 8 cells each (four methods, two
# batch sizes) on a virtual machine, the mean variance of a cell's sessions less what its processes
# explain. `make meters SESSIONS=12` measures it again.
BETWEEN_SESSIONS = Spread(0.031**2, 11)


def process_medians(log_ratios: Sequence[ArrayLike]) -> np.ndarray:
    """Each process's typical log ratio, [P]. Raises ValueError for a process without rounds."""
    found = [np.asarray(rounds, dtype=np.float64).reshape(-1) for rounds in log_ratios]
    if not found or any(rounds.size == 0 for rounds in found):
        raise ValueError("every process needs at least one round")
    if not all(np.isfinite(rounds).all() for rounds in found):
        raise ValueError("an interval needs finite values")
    return np.array([np.median(rounds) for rounds in found])


def spread_of(medians: ArrayLike) -> Spread | None:
    """The spread of one trial's processes, `medians` [P]; None for a single process."""
    values = np.asarray(medians, dtype=np.float64)
    if values.size < MIN_PROCESSES:
        return None
    return Spread(float(values.var(ddof=1)), values.size - 1)


def pool(trials: Sequence[ArrayLike]) -> Spread | None:
    """The spread that a run's trials have in common, each given by its medians [P].

    Variances are weighted by their degrees of freedom. With three processes a trial alone has two
    of them, and an interval is 2.2 times as wide as with many. None without a trial of two.
    """
    found = [spread for each in trials if (spread := spread_of(each)) is not None]
    df = sum(spread.df for spread in found)
    if df == 0:
        return None
    return Spread(sum(spread.variance * spread.df for spread in found) / df, df)


def process_interval(
    medians: ArrayLike, pooled: Spread | None = None, sessions: Spread | None = None
) -> Interval:
    """The mean of the processes' medians [P] with Student's t interval.

    With `sessions`, what sessions differ by, it holds for the next session, else for this one.

    The spread is `pooled` over trials of which this is one, unless its own is larger than that of
    the others by more than chance allows (an F test at 5 %): pooling must not lend a steady trial's
    certainty to a restless one. One process has no interval of its own; with `pooled` it has. Equal
    values in all processes have none: they would count as certainty.
    """
    values = np.asarray(medians, dtype=np.float64)
    center, own = float(values.mean()), spread_of(values)
    used = _chosen(own, pooled)
    if used is None:
        reason = "one process: what changes between processes is unknown"
        return Interval(center, None, None, values.size, "none", reason)
    if used.sd <= ROUNDING:
        return Interval(center, None, None, values.size, "none", NO_SPREAD)
    error = _added([Spread(used.variance / values.size, used.df), sessions])
    half = _half_width(error)
    method = f"{values.size} processes, {error.df:.4g} degrees of freedom"
    method += f", {sessions.sd:.1%} between sessions" if sessions else ""
    return Interval(center, center - half, center + half, values.size, method)


def _added(parts: Sequence[Spread | None]) -> Spread:
    """The variance of a sum of independent parts, by Welch and Satterthwaite."""
    found = [part for part in parts if part is not None and part.variance > 0]
    total = sum(part.variance for part in found)
    return Spread(total, total**2 / sum(part.variance**2 / part.df for part in found))


def _half_width(error: Spread) -> float:
    return float(stdtrit(error.df, (1 + LEVEL) / 2)) * error.sd


def _chosen(own: Spread | None, pooled: Spread | None) -> Spread | None:
    if own is None or pooled is None:
        return pooled or own
    # Against the others: of six trials of three processes none is seven times the mean of all six.
    others = pooled.without(own)
    if others is None:
        return pooled
    limit = others.variance * float(fdtri(own.df, others.df, 1 - HETEROGENEITY))
    return own if own.variance > limit else pooled


def difference_interval(old: ArrayLike, new: ArrayLike, sessions: Spread | None = None) -> Interval:
    """mean(new) - mean(old) of two independent sets of processes [P1], [P2], by Welch's t.

    The two sides may differ in their number of processes and in how restless they are, and with
    `sessions` each is a session of its own. No interval with a single process on either side.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (old, new)]
    value = float(sides[1].mean() - sides[0].mean())
    number = min(side.size for side in sides)
    if number < MIN_PROCESSES:
        reason = "one process: what changes between processes is unknown"
        return Interval(value, None, None, number, "none", reason)
    errors = [Spread(float(side.var(ddof=1)) / side.size, side.size - 1) for side in sides]
    if not any(error.variance for error in errors):
        return Interval(value, None, None, number, "none", NO_SPREAD)
    error = _added([*errors, sessions and Spread(2 * sessions.variance, sessions.df)])
    half, method = _half_width(error), f"Welch, {error.df:.1f} degrees of freedom"
    return Interval(value, value - half, value + half, number, method)
