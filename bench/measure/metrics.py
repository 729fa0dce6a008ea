"""Metrics in the units of the catalogue: a meter names an entry and gives its number.

    number(PARAMS, 128)                      a part with this one metric
{PARAMS.at(): metric(PARAMS, 128)}
{SPEEDUP.at(64): interval_metric(SPEEDUP, interval, doubt="times never settled")}
{LARGEST_BATCH.at(): missing_metric(LARGEST_BATCH, "no GPU")}
"""

from __future__ import annotations

import math

from bench.measure.findings import Part
from bench.records.entry import Entry
from bench.records.record import Metric, missing
from bench.statistics import Interval


def number(entry: Entry, value: float | int, doubt: str | None = None) -> Part:
    """What a meter found that measures one number."""
    return Part({entry.at(): metric(entry, value, doubt)})


def metric(
    entry: Entry,
    value: float | int,
    doubt: str | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Metric:
    """`value` in the unit of `entry`; with a `doubt` it is kept and no table shows it.

    A value that is not finite is missing, with the doubt as its reason where there is one.
    """
    # One number of a plugin, such as a declared cost of NaN, must not end the whole trial.
    if not math.isfinite(value):
        return missing_metric(entry, doubt or f"the result is {float(value)}, not a finite number")
    return Metric(
        value=value, unit=entry.unit, low=low, high=high, valid=doubt is None, reason=doubt
    )


def interval_metric(entry: Entry, interval: Interval, doubt: str | None = None) -> Metric:
    """An estimate with its 95 % interval; missing with its reason where there is none."""
    if interval.value is None:  # with too few values for the quantile, for example
        # The doubt comes first: it explains why there are too few values for an interval.
        return missing_metric(entry, doubt or interval.reason or "unknown")
    return metric(entry, interval.value, doubt, low=interval.low, high=interval.high)


def missing_metric(entry: Entry, reason: str) -> Metric:
    """A metric of `entry` that could not be measured, and why."""
    return missing(entry.unit, reason)
