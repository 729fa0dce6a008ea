"""A metric against the catalogue: its unit, the possible values, its own interval."""

from __future__ import annotations

from bench.records.catalogue import find
from bench.records.entry import SeedMean
from bench.records.record import Metric


def contradiction(key: str, metric: Metric) -> str:
    """How a metric contradicts itself or the catalogue; "" where it does not.

    A key that the catalogue does not have may be of a later version: its unit and range are open.
    """
    entry = find(key)
    if entry is not None and entry.unit and metric.unit != entry.unit:
        return f"unit {metric.unit!r} instead of {entry.unit!r}"
    if metric.value is None:
        return "an interval without a value" if (metric.low, metric.high) != (None, None) else ""
    bounds = (metric.low, metric.high)
    # An arithmetic interval of a positive number may reach below 0, one of logarithms cannot.
    judged = (metric.value, *(bounds if entry and entry.seed_mean is SeedMean.LOGS else ()))
    for number in judged:
        if entry is not None and number is not None and not entry.quantity.allows(number):
            return f"{number:.4g} is impossible for {entry.title}"
    # A missing bound is no limit on that side.
    low = metric.value if metric.low is None else metric.low
    high = metric.value if metric.high is None else metric.high
    if not low <= metric.value <= high:
        return f"value {metric.value:.4g} is outside its own interval {low:.4g} to {high:.4g}"
    return ""
