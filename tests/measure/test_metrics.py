"""Metrics in the units of the catalogue: doubtful, missing, or with their interval."""

from __future__ import annotations

import math

import pytest

from bench.measure.metrics import interval_metric, metric, missing_metric, number
from bench.records.catalogue import LATENCY, PARAMS
from bench.records.record import Metric
from bench.statistics import Interval

HALF = Interval(0.5, 0.4, 0.6, 30, "bootstrap")
NONE = Interval(None, None, None, 3, "none", "p50 needs 20 inputs, 3 were measured")


def test_the_unit_is_that_of_the_catalogue() -> None:
    """Parameters are a count, latency is in milliseconds."""
    assert number(PARAMS, 128).metrics == {"model/params": Metric(value=128, unit="count")}
    assert metric(LATENCY, 0.5, low=0.4, high=0.6).unit == "ms"
    assert missing_metric(LATENCY, "not timed") == Metric(
        value=None, unit="ms", valid=False, reason="not timed"
    )


def test_a_doubt_keeps_the_number_and_hides_it() -> None:
    """With the doubt as its reason; without one the number is valid."""
    found = metric(PARAMS, 128, "a lower bound")
    assert (found.value, found.shown, found.reason) == (128, None, "a lower bound")
    assert metric(PARAMS, 128).shown == 128


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_missing(value: float) -> None:
    """With the doubt as its reason where there is one: it is the cause."""
    assert metric(LATENCY, value).reason == f"the result is {value}, not a finite number"
    assert metric(LATENCY, value, "the hook failed").reason == "the hook failed"
    assert metric(LATENCY, value).value is None


@pytest.mark.parametrize(
    ("interval", "doubt", "shown", "reason"),
    [
        (HALF, None, 0.5, None),
        (HALF, "not steady", None, "not steady"),
        (NONE, None, None, NONE.reason),
        (NONE, "not steady", None, "not steady"),
    ],
)
def test_an_estimate_has_its_interval_or_a_reason(
    interval: Interval, doubt: str | None, shown: float | None, reason: str | None
) -> None:
    """A doubt comes before the interval's own reason."""
    found = interval_metric(LATENCY, interval, doubt)
    assert (found.value, found.low, found.high) == (interval.value, interval.low, interval.high)
    assert (found.shown, found.reason) == (shown, reason)
