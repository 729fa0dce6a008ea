"""Which numbers are withheld: those that cannot be true, and those of a model that changed."""

from __future__ import annotations

from bench.measure.flops.recount import invalidate, why_cost_changed
from bench.measure.plausibility import check
from bench.measure.run import Run
from bench.measure.subject import Metrics
from bench.meters.shared.state import in_words


def withhold_implausible(run: Run) -> None:
    """Mark what cannot be true at the operating point that is set as invalid."""
    result = run.findings.points[run.number]
    result.metrics = check(result.metrics, run.facts)


def conclude(run: Run) -> None:
    """Join the metrics of training, of the default point and of the trial, and judge them as one.

    Checked again: some gates compare metrics of different stages. The recount comes last, because
    it looks for what the timed calls changed.
    """
    findings = run.findings
    # The three have no key in common; a record lists them in this order.
    joined = check({**run.training, **run.metrics, **findings.metrics}, run.facts)
    findings.metrics = invalidate(joined, why_cost_changed(run.subject, run.inputs, run.metrics))
    if changes := run.shared.changes():
        _void(run, in_words("a pass of the model", changes))


def _void(run: Run, reason: str) -> None:
    """Mark every metric of inference as invalid, at every operating point.

    Which of them were measured under the change is unknown, and the dense model was too.
    """
    findings = run.findings
    findings.metrics = _without_inference(findings.metrics, reason)
    for point in findings.points:
        point.metrics = _without_inference(point.metrics, reason)
    findings.notes.append(reason)


def _without_inference(metrics: Metrics, reason: str) -> Metrics:
    return {
        key: metric.model_copy(update={"valid": False, "reason": reason})
        if key.startswith("infer/")
        else metric
        for key, metric in metrics.items()
    }
