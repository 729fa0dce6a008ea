"""Speed-ups of a table share the spread between processes; intervals are those of processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy.special import stdtrit

from bench.records.reading import Found
from bench.records.record import Metric, PointResult
from bench.report.tables.processes import spreads, with_pooled_intervals

STEADY = [math.log(r) for r in (1.50, 1.51, 1.52)]
OTHER = [math.log(r) for r in (0.80, 0.82, 0.81)]


def trial(make, method: str, medians: object, **more) -> Found:
    """A trial whose one operating point was timed in several processes."""
    made = make(method=method, **more)
    timing = {"point0": {"b64": {"process_log_ratios": medians}}}
    point = PointResult(settings={}, metrics=made.metrics)
    return Found(
        made.model_copy(update={"diagnostics": {"timing": timing}, "points": [point]}), Path(method)
    )


def test_the_spread_is_pooled_over_the_table(make) -> None:
    """Two trials of three processes: four degrees of freedom, the mean of both variances."""
    found = [trial(make, "moe", STEADY), trial(make, "branches", OTHER)]
    pooled = spreads(found)[64]
    assert pooled.df == 4
    own = [sum((m - sum(t) / 3) ** 2 for m in t) / 2 for t in (STEADY, OTHER)]
    assert pooled.variance == pytest.approx(sum(own) / 2)


def test_bounds_are_those_of_processes_and_sessions(make) -> None:
    """exp(mean -+ t sd), sd^2 = pooled / 3 (4 degrees) + 0.031^2 (11), t by Welch's degrees.

    The realised share is divided by tau as before.
    """
    found = [trial(make, "moe", STEADY, speedup=1.51), trial(make, "branches", OTHER)]
    first = with_pooled_intervals(found)[0].record
    processes, sessions = spreads(found)[64].variance / 3, 0.031**2
    df = (processes + sessions) ** 2 / (processes**2 / 4 + sessions**2 / 11)
    half = float(stdtrit(df, 0.975)) * math.sqrt(processes + sessions)
    mean = sum(STEADY) / 3
    for metrics in (first.metrics, first.points[0].metrics):
        speedup = metrics["infer/speedup_b64"]
        assert (speedup.low, speedup.high) == pytest.approx(
            (math.exp(mean - half), math.exp(mean + half)), rel=1e-4
        )
        tau, realised = metrics["infer/tau_b64"].value, metrics["infer/realised_b64"]
        assert realised.high == pytest.approx(speedup.high / tau)
    assert first.metrics["infer/speedup_b1"] == found[0].record.metrics["infer/speedup_b1"]


ODD = [None, [], ["1"], [math.inf], [True], {"a": 1}, "1.5", [[0.1], [0.2]], [math.nan, 0.1]]
HUGE = [[1000.0, 1001.0], [-1000.0, -1001.0], [10**400, 1], [1e308, -1e308], [0.0, 600.0, -600.0]]


@pytest.mark.parametrize("odd", ODD + HUGE)
def test_foreign_diagnostics_change_nothing(make, odd: object) -> None:
    """What is not a list of numbers is left out; an older record has none."""
    found = [trial(make, "moe", odd), Found(make(method="branches"), Path("b"))]
    assert spreads(found) == {}
    assert with_pooled_intervals(found) == found


@pytest.mark.parametrize("name", ["64", "b", "b-1", "b" + "9" * 5000, "b6.4"])
def test_what_is_no_batch_size_is_left_out(make, name: str) -> None:
    """Also a number with more digits than Python turns into an integer."""
    found = trial(make, "moe", STEADY)
    found.record.diagnostics["timing"] = {"point0": {name: {"process_log_ratios": STEADY}}}
    assert spreads([found]) == {}


def test_points_and_batch_sizes_are_pooled_apart(make) -> None:
    """Two trials and a second operating point share the spread of their batch size alone."""
    first, second = (trial(make, "moe", STEADY) for _ in range(2))
    timing = first.record.diagnostics["timing"]
    timing["point0"]["b1"] = {"process_log_ratios": OTHER}
    timing["point1"] = {"b64": {"process_log_ratios": OTHER}}  # of a point that is not measured
    pooled = spreads([first, second])
    assert {size: spread.df for size, spread in pooled.items()} == {1: 2, 64: 4}
    point = first.record.points[0]
    both = first.record.model_copy(update={"points": [point, point]})
    assert spreads([Found(both, first.folder), second])[64].df == 6


def test_extreme_intervals_have_finite_bounds(make) -> None:
    """Two processes that differ by as much as a timing can, beside a FLOP ratio of 1."""
    found = trial(make, "moe", [-20.0, 20.0], share=1.0)
    saving = Metric(value=0.5, unit="1")
    found.record.points[0].metrics["infer/saving_realised_b64"] = saving
    (only,) = with_pooled_intervals([found])
    metrics = only.record.points[0].metrics
    assert metrics["infer/saving_realised_b64"] == saving
    for metric in metrics.values():
        assert all(math.isfinite(x) for x in (metric.low, metric.high) if x is not None)
