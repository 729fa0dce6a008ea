"""Confidence intervals: every interval in a table or verdict is computed here.

    timing     ratio_interval(log_ratios)          median of paired rounds, as a ratio
    tails      quantile_interval(values, 0.99)     order statistics; needs enough inputs
    seeds      paired_interval(candidate, base)    mean difference over shared seeds, Student's t
    theory     realised_share, saving_realised     share of a FLOP saving realised as time

Everything is deterministic: resampling has a fixed seed. numpy and scipy only, no torch: reports
and verdicts import this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

LEVEL = 0.95
ROUNDING = 1e-9  # relative: values closer than this count as equal
NUM_DRAWS = 10_000  # bootstrap resamples
MIN_BOOTSTRAP = 20  # values; below, the bootstrap of a median has too low coverage
MIN_TAU = 1.02  # below this FLOP ratio the share of the saving divides by almost zero

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence interval; `reason` explains a None."""

    value: float | None
    low: float | None
    high: float | None
    num_values: int
    method: str  # "bootstrap", "order statistics", "student t" or "none"
    reason: str | None = None

    def map(self, change: Callable[[float], float]) -> Interval:
        """The interval of an increasing function of the estimate (exact for quantile intervals)."""
        low, value, high = (
            None if x is None else change(x) for x in (self.low, self.value, self.high)
        )
        return replace(self, value=value, low=low, high=high)


def ratio_interval(log_ratios: ArrayLike, *, seed: int = 0) -> Interval:
    """The typical ratio of paired rounds: exp(median of the log ratios) with its interval.

    `log_ratios` [K]: one log(baseline time / candidate time) per round. The interval is the
    percentile bootstrap over rounds from K = 20 up, order statistics below (Efron and Tibshirani,
    1993, chapter 13; Conover, 1999, section 3.2). Raises ValueError on no or non-finite values.
    """
    return median_interval(log_ratios, seed=seed).map(math.exp)


def median_interval(values: ArrayLike, *, seed: int = 0) -> Interval:
    """The median of `values` [K] with its interval, see `ratio_interval`."""
    data = _finite(values)
    if data.size < MIN_BOOTSTRAP:
        # Exact whatever the distribution, but conservative: with 10 values it covers 97.9 %.
        return _order_statistics(data, 0.5, float(np.median(data)))
    low, high = _bootstrap_median(data, seed)
    return Interval(float(np.median(data)), low, high, data.size, "bootstrap")


def min_inputs(quantile: float) -> int:
    """Inputs that a quantile needs: ten beyond it (p50 20, p90 100, p99 1000)."""
    # Rounded first: 10 / (1 - 0.9) is 100.00000000000003 in floating point.
    return math.ceil(round(10 / (1 - quantile), 6))


def quantile_interval(values: ArrayLike, quantile: float) -> Interval:
    """A quantile over inputs: the smallest value with at least that share at or below it.

    `values` [N], one per input. The interval uses order statistics. With fewer inputs than
    `min_inputs(quantile)` value and bounds are None, with the reason. Raises ValueError on no or
    non-finite values, or a quantile outside (0, 1).
    """
    if not 0 < quantile < 1:
        raise ValueError(f"a quantile lies between 0 and 1, not {quantile}")
    data = _finite(values)
    needed = min_inputs(quantile)
    if data.size < needed:
        reason = f"p{100 * quantile:g} needs {needed} inputs, {data.size} were measured"
        return Interval(None, None, None, data.size, "none", reason)
    # inverted_cdf returns an observed value; interpolation would invent latencies between modes.
    value = float(np.quantile(data, quantile, method="inverted_cdf"))
    return _order_statistics(data, quantile, value)


def mean_interval(values: ArrayLike) -> Interval:
    """The mean of `values` [n] (one per seed) with Student's t interval.

    One value has no interval, and neither do equal values: two seeds that agree by chance would
    otherwise count as certainty.
    """
    data = _finite(values)
    mean = float(data.mean())
    if data.size < 2:
        return Interval(mean, None, None, data.size, "none", "one seed has no interval")
    # Not == 0: differences of equal scores may differ in the last bit.
    if np.ptp(data) <= ROUNDING * np.abs(data).max():
        return Interval(
            mean, None, None, data.size, "none", "equal in all seeds: no spread is seen"
        )
    error = float(data.std(ddof=1)) / math.sqrt(data.size)
    # stdtrit is the quantile of Student's t; scipy.stats.t costs half a second of import.
    half = error * float(stdtrit(data.size - 1, (1 + LEVEL) / 2))
    return Interval(mean, mean - half, mean + half, data.size, "student t")


def paired_interval(candidate: ArrayLike, baseline: ArrayLike) -> Interval:
    """Mean of candidate - baseline over the same seeds, both [n], with the paired t interval.

    Student's t holds its coverage from two seeds up, where resampling seeds covers far too little.
    Raises ValueError when the lengths differ.
    """
    return mean_interval(_differences(candidate, baseline))


def realised_share(speedup: Interval, tau: float) -> Interval:
    """rho = sigma / tau: the share of the FLOP ratio that is realised as a time ratio.

    `speedup` is sigma, dense time / method time; `tau` the dense / method ratio of executed
    FLOPs over the same inputs, an exact count. Both bounds come from the same resamples as
    sigma's, because dividing by tau keeps their order. Raises ValueError unless tau > 0.
    """
    if not tau > 0:
        raise ValueError(f"a FLOP ratio is positive, not {tau}")
    return speedup.map(lambda sigma: sigma / tau)


def saving_realised(speedup: Interval, tau: float) -> Interval:
    """(1 - 1/sigma) / (1 - 1/tau): the share of the FLOP saving that is realised as time.

    Value and bounds are None where tau <= MIN_TAU, where there is hardly any saving to realise.
    """
    if not tau > MIN_TAU:  # written so that NaN is rejected too
        reason = f"the method saves too few FLOPs (ratio {tau:.3g}, needs more than {MIN_TAU})"
        return Interval(None, None, None, speedup.num_values, "none", reason)
    return speedup.map(lambda sigma: (1 - 1 / sigma) / (1 - 1 / tau))


def _finite(values: ArrayLike) -> Vector:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if data.size == 0:
        raise ValueError("an interval needs at least one value")
    if not np.isfinite(data).all():
        raise ValueError("an interval needs finite values")
    return data


def _differences(candidate: ArrayLike, baseline: ArrayLike) -> Vector:
    left, right = _finite(candidate), _finite(baseline)
    if left.size != right.size:
        raise ValueError(f"pairs need equal lengths, not {left.size} and {right.size}")
    return left - right


def _order_statistics(data: Vector, quantile: float, value: float) -> Interval:
    """The binomial interval between two order statistics, free of distribution assumptions."""
    from scipy import stats  # here: half a second of import that `condbench report` rarely needs

    bounds = stats.quantile_test(data, p=quantile).confidence_interval(LEVEL)
    low, high = float(bounds.low), float(bounds.high)
    # A bound is NaN where not even the extreme values cover the level: fewer than 6 for a median.
    if math.isnan(low) or math.isnan(high):
        reason = f"{data.size} values are too few for a 95 % interval"
        return Interval(value, None, None, data.size, "none", reason)
    return Interval(value, low, high, data.size, "order statistics")


def _bootstrap_median(data: Vector, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the median.

    A resample's median is the value at the middle of its sorted positions. Positions depend on the
    number of values alone, so that one set of draws serves hundreds of intervals of equal size.
    """
    ordered = np.sort(data)
    lower, upper = _resampled_middles(data.size, seed)
    medians = (ordered[lower] + ordered[upper]) / 2
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@cache
def _resampled_middles(num_values: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted positions of the lower and upper middle element of each resample, [draws] each."""
    generator = np.random.default_rng(seed)
    positions = generator.integers(num_values, size=(NUM_DRAWS, num_values))  # [draws, K]
    positions.sort(axis=1)
    # copy: a view would keep all positions in the cache.
    return positions[:, (num_values - 1) // 2].copy(), positions[:, num_values // 2].copy()


def interquartile_range(values: Sequence[float] | Vector) -> float:
    """Upper minus lower quartile."""
    lower, upper = np.quantile(_finite(values), [0.25, 0.75])
    return float(upper - lower)


def num_outliers(values: Sequence[float] | Vector) -> int:
    """Number of values more than three interquartile ranges outside the quartiles (Tukey)."""
    data = _finite(values)
    lower, upper = np.quantile(data, [0.25, 0.75])
    reach = 3 * (upper - lower)
    return int(((data < lower - reach) | (data > upper + reach)).sum())
