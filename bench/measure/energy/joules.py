"""Joules as metrics: a counter that gained nothing is a missing metric, never 0 J."""

from __future__ import annotations

from bench.measure.metrics import interval_metric, metric, missing_metric
from bench.meters.energy.refusals import NoEnergy
from bench.records.entry import Entry
from bench.records.record import Metric
from bench.statistics import Interval


def joule_metric(entry: Entry, joules: Interval, doubt: str | None = None) -> Metric:
    """Joules with their interval; missing where they are 0 or less: whatever ran drew power."""
    if joules.value is not None and not joules.value > 0:
        return missing_metric(entry, NoEnergy(f"the counter gained {joules.value:g} J").reason)
    return interval_metric(entry, joules, doubt)


def net_metric(entry: Entry, joules: float, doubt: str | None = None) -> Metric:
    """Joules above idle; missing where there are none."""
    if not joules > 0:
        return missing_metric(entry, doubt or "no more power than idle")
    return metric(entry, joules, doubt)
