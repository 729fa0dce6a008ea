"""Which numbers are withheld: those that cannot be true, and those of a model that changed."""

from __future__ import annotations

from bench.measure.flops.recount import invalidate, why_cost_changed
from bench.measure.plausibility import check
from bench.measure.run import Run


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
