"""Ratios across two sessions: each side was paired with dense in a process of its own.

A method's cost relative to dense is measured in each session by paired rounds, and the ratio of
these ratios is compared. Machine speed cancels within each session. A slowdown of method and dense
alike cancels too: only `--rev`, which pairs the revisions themselves, detects it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from bench.records.reading import Rounds
from bench.statistics import (
    LEVEL,
    MIN_BOOTSTRAP,
    NUM_DRAWS,
    Interval,
    median_interval,
    ratio_interval,
)
from bench.statistics.processes import (
    BETWEEN_SESSIONS,
    MIN_PROCESSES,
    difference_interval,
    process_interval,
    process_medians,
)


def log_relative_costs(rounds: Rounds) -> list[np.ndarray]:
    """log(method time / dense time) of the paired rounds of each process."""
    costs = np.log(rounds.method_s / rounds.dense_s)
    return [costs[rounds.process == number] for number in np.unique(rounds.process)]


def session_ratio(baseline: Rounds, candidate: Rounds) -> Interval:
    """The candidate's relative cost / the baseline's, from the rounds of two sessions.

    Where both were timed in several processes, processes are what is sampled. Rounds of one process
    on either side are taken as independent, as in records of before.
    """
    old, new = log_relative_costs(baseline), log_relative_costs(candidate)
    if min(len(old), len(new)) < MIN_PROCESSES:
        return cost_ratio(np.concatenate(old), np.concatenate(new))
    return difference_interval(process_medians(old), process_medians(new), BETWEEN_SESSIONS).map(
        math.exp
    )


def control_ratio(rounds: Rounds) -> Interval:
    """The typical ratio of the rounds of one session, of an A/A control for example."""
    costs = log_relative_costs(rounds)
    if len(costs) < MIN_PROCESSES:
        return ratio_interval(np.concatenate(costs))
    return process_interval(process_medians(costs)).map(math.exp)


def cost_ratio(baseline: ArrayLike, candidate: ArrayLike, *, seed: int = 0) -> Interval:
    """exp(median candidate - median baseline) of two sessions' log relative costs [K1], [K2].

    The sessions are independent samples: percentile bootstrap of the difference of medians (Efron
    and Tibshirani, 1993, chapter 16) from 20 rounds up in both. Below, the extreme differences of
    the two order-statistic intervals, which cover more than 95 %.
    """
    old, new = (np.asarray(side, float) for side in (baseline, candidate))
    value = float(np.median(new) - np.median(old))
    number = min(old.size, new.size)
    if number < MIN_BOOTSTRAP:
        return _box(old, new, value)
    generator = np.random.default_rng(seed)  # fixed: the same records give the same verdict
    # Rounds of different sessions are not paired, so each side is resampled by itself.
    draws = [
        np.median(side[generator.integers(side.size, size=(NUM_DRAWS, side.size))], axis=1)
        for side in (old, new)
    ]  # [NUM_DRAWS] each
    low, high = np.quantile(draws[1] - draws[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), number, "bootstrap").map(math.exp)


def _box(old: np.ndarray, new: np.ndarray, value: float) -> Interval:
    """The extreme differences of the two sides' own intervals."""
    before, now = median_interval(old), median_interval(new)
    number = min(old.size, new.size)
    if before.low is None or before.high is None or now.low is None or now.high is None:
        reason = before.reason or now.reason
        return Interval(math.exp(value), None, None, number, "none", reason)
    whole = Interval(value, now.low - before.high, now.high - before.low, number, "box")
    return whole.map(math.exp)


def independent_ratio(
    baseline: tuple[float, float, float], candidate: tuple[float, float, float]
) -> Interval:
    """candidate / baseline of two positive numbers (value, low, high) measured independently.

    Half-widths add in quadrature on the log scale, separately below and above the value.
    """
    (old, old_low, old_high), (new, new_low, new_high) = (
        tuple(map(math.log, each)) for each in (baseline, candidate)
    )
    # The ratio is low where the candidate is low and the baseline high, and the other way round.
    down = math.hypot(new - new_low, old_high - old)
    up = math.hypot(new_high - new, old - old_low)
    value = new - old
    return Interval(value, value - down, value + up, 0, "quadrature").map(math.exp)
