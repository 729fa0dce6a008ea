"""One metric over the seeds of a row: mean, 95 % interval, and the reasons for missing seeds.

The catalogue decides how a metric is averaged: as logarithms or arithmetically, with an interval or
without. With one seed the record's own interval stands, of paired timing rounds for example. From
two seeds up it is Student's t over seeds, whose coverage is exact also for few seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.records.catalogue import find
from bench.records.entry import SeedMean
from bench.records.record import Metric

Bounded = tuple[float | None, float | None, float | None]  # value, low, high
MAX_LOG = 700.0  # exp() of more overflows a float


@dataclass(frozen=True)
class Cell:
    """A metric aggregated over `num_seeds` seeds.

    `reasons` explain a `value` of None, or beside a value why other seeds lack one.
    """

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    num_seeds: int = 1
    reasons: tuple[str, ...] = ()


def aggregate(seeds: Sequence[dict[str, Metric]]) -> dict[str, Cell]:
    """Every metric that any of a row's seeds has, aggregated over the seeds."""
    keys = dict.fromkeys(key for metrics in seeds for key in metrics)  # a set loses the order
    return {key: _cell(key, [metrics.get(key) for metrics in seeds]) for key in keys}


def _cell(key: str, metrics: Sequence[Metric | None]) -> Cell:
    shown = [metric for metric in metrics if metric is not None and metric.shown is not None]
    unit = next(metric.unit for metric in metrics if metric is not None)
    reasons = tuple(dict.fromkeys(why for metric in metrics if (why := _reason(metric))))
    if not shown:
        return Cell(None, unit, num_seeds=0, reasons=reasons)
    if len(shown) == 1:
        only = shown[0]
        bounds = (_finite(only.low), _finite(only.high))
        return Cell(float(only.value or 0), unit, *bounds, num_seeds=1, reasons=reasons)
    values = [float(metric.value) for metric in shown if metric.value is not None]
    value, low, high = _mean(key, values)
    return Cell(value, unit, low, high, len(values), reasons)


def _reason(metric: Metric | None) -> str | None:
    """Why a number may not be shown; None where it may. A valid one may carry a reason too."""
    if metric is None:
        return "not in the record"
    return metric.reason if metric.shown is None else None


def _finite(bound: float | None) -> float | None:
    return bound if bound is not None and math.isfinite(bound) else None


def _mean(key: str, values: Sequence[float]) -> Bounded:
    entry = find(key)
    kind = SeedMean.PLAIN if entry is None else entry.seed_mean
    # An untrusted record may hold a ratio of 0, which has no logarithm.
    if kind is SeedMean.LOGS and min(values) > 0:
        logs = _mean_interval([math.log(value) for value in values])
        value, low, high = (None if x is None else math.exp(min(x, MAX_LOG)) for x in logs)
        return value, low, high
    if kind is SeedMean.INTERVAL:
        return _mean_interval(values)
    return _plain_mean(values), None, None


def _plain_mean(values: Sequence[float]) -> float:
    # Divided before they are summed: the sum of two large values may overflow.
    return math.fsum(value / len(values) for value in values)


def difference(unit: str, pairs: Sequence[tuple[float, float]]) -> Cell:
    """Mean of candidate - baseline over two or more seeds with the paired t interval."""
    value, low, high = _mean_interval([candidate - baseline for candidate, baseline in pairs])
    return Cell(value, unit, low, high, len(pairs))


def at_least(cell: Cell, half: float | None) -> Cell:
    """`cell` with an interval of at least `half` to both sides."""
    if half is None or cell.value is None:
        return cell
    known = cell.low is not None and cell.high is not None
    if known and (cell.high or 0.0) - (cell.low or 0.0) >= 2 * half:
        return cell
    return replace(cell, low=cell.value - half, high=cell.value + half)


def _mean_interval(values: Sequence[float]) -> Bounded:
    from bench.statistics import mean_interval  # scipy: half a second, only for several seeds

    with np.errstate(over="ignore", invalid="ignore"):  # the squares of a diverged run
        interval = mean_interval(values)
    bounds = (interval.low, interval.high)
    if any(bound is None or not math.isfinite(bound) for bound in bounds):
        return _plain_mean(values), None, None
    return interval.value, *bounds
