"""Which numbers are withheld at a point, and when measuring ends."""

from __future__ import annotations

import pytest
import torch

from bench.measure import withholding
from bench.measure.plausibility import Facts
from bench.measure.run import Run
from bench.measure.withholding import conclude, withhold_implausible
from bench.meters.shared.state import SharedState
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
    run.shared = SharedState()
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
    finished.shared = SharedState()  # this test's own patch is no model's
    conclude(finished)
    metrics = finished.findings.metrics
    assert metrics["infer/latency_ms_p50"].reason == "it keeps something"
    assert metrics["model/params"].valid


def test_a_model_that_changed_torch_voids_inference_at_every_point(finished: Run) -> None:
    """A setting that it left changed: dense was measured under it too, training was before."""
    torch.set_float32_matmul_precision("medium")
    try:
        conclude(finished)
    finally:
        torch.set_float32_matmul_precision("highest")
    findings = finished.findings
    for metrics in (findings.metrics, *(point.metrics for point in findings.points)):
        found = metrics["infer/latency_ms_p50"]
        assert found.shown is None
        assert "get_float32_matmul_precision(): highest before, medium now" in str(found.reason)
    assert findings.metrics["model/params"].valid
    assert findings.notes == [findings.metrics["infer/latency_ms_p50"].reason]
