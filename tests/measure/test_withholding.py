"""Which numbers are withheld at a point, and when measuring ends."""

from __future__ import annotations

import pytest

from bench.measure import withholding
from bench.measure.plausibility import Facts
from bench.measure.run import Run
from bench.measure.withholding import conclude, withhold_implausible
from bench.records.record import Metric

NEGATIVE, GOOD = Metric(value=-1.0, unit="ms"), Metric(value=1.0, unit="ms")


@pytest.fixture
def finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with a metric of training, of every point and of the trial."""
    monkeypatch.setattr(withholding, "why_cost_changed", lambda *arguments: None)
    run.facts = Facts()
    run.training = {"train/time_s": Metric(value=-2.0, unit="s")}
    for point, metric in zip(run.findings.points, (GOOD, NEGATIVE, GOOD), strict=True):
        point.metrics["infer/latency_ms_p50"] = metric
    run.findings.metrics["model/params"] = Metric(value=8, unit="count")
    return run


def test_what_cannot_be_true_is_withheld_at_its_point(finished: Run) -> None:
    """The number stays, invalid; other points are not touched."""
    finished.number = 1
    withhold_implausible(finished)
    _, negative, good = (
        point.metrics["infer/latency_ms_p50"] for point in finished.findings.points
    )
    assert (negative.value, negative.shown) == (-1.0, None)
    assert str(negative.reason).startswith("withheld: ")
    assert good.valid


def test_the_record_joins_training_default_point_and_trial(finished: Run) -> None:
    """All of them go through the gates, also what training cost."""
    conclude(finished)
    metrics = finished.findings.metrics
    assert list(metrics) == ["train/time_s", "infer/latency_ms_p50", "model/params"]
    assert [metric.valid for metric in metrics.values()] == [False, True, True]


def test_a_model_that_changed_makes_inference_invalid(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters and its training are what they were."""
    monkeypatch.setattr(withholding, "why_cost_changed", lambda *arguments: "it keeps something")
    conclude(finished)
    metrics = finished.findings.metrics
    assert metrics["infer/latency_ms_p50"].reason == "it keeps something"
    assert metrics["model/params"].valid
