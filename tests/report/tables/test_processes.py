"""Speed-ups of a table share the spread between processes; intervals are those of processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.records.reading import Found
from bench.records.record import PointResult
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


def test_bounds_are_those_of_processes_with_t_of_four(make) -> None:
    """exp(mean -+ 2.776 sd / sqrt 3), and the realised share is divided by tau as before."""
    found = [trial(make, "moe", STEADY, speedup=1.51), trial(make, "branches", OTHER)]
    first = with_pooled_intervals(found)[0].record
    half = 2.7764 * spreads(found)[64].sd / math.sqrt(3)
    mean = sum(STEADY) / 3
    for metrics in (first.metrics, first.points[0].metrics):
        speedup = metrics["infer/speedup_b64"]
        assert (speedup.low, speedup.high) == pytest.approx(
            (math.exp(mean - half), math.exp(mean + half)), rel=1e-4
        )
        tau, realised = metrics["infer/tau_b64"].value, metrics["infer/realised_b64"]
        assert realised.high == pytest.approx(speedup.high / tau)
    assert first.metrics["infer/speedup_b1"] == found[0].record.metrics["infer/speedup_b1"]


@pytest.mark.parametrize("odd", [None, [], ["1"], [math.inf], [True], {"a": 1}, "1.5"])
def test_foreign_diagnostics_change_nothing(make, odd: object) -> None:
    """What is not a list of numbers is left out; an older record has none."""
    found = [trial(make, "moe", odd), Found(make(method="branches"), Path("b"))]
    assert spreads(found) == {}
    assert with_pooled_intervals(found) == found
