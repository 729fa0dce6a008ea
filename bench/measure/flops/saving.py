"""What the gates save, as declared and as executed: a method that only masks shows up here.

Open gates are the reference, where everything runs that a gate may skip. The declared saving is
what the decisions then leave out, by their own cost; the executed saving is what the counter sees
of it. Skipping makes them equal, multiplying by zero makes the second one vanish.

With every gate closed a method executes the least that it can. Where that is the whole dense
model, or more, its gates save parts that dense does not have: it never gets below dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench import routing
from bench.measure.findings import Part
from bench.measure.flops.cost import NO_DECISION, DenseCost, declared_flops, doubt_of
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import count_samples
from bench.records.catalogue import CLOSED_SHARE, DECLARED_SAVING, EXECUTED_SAVING
from bench.records.record import Metric
from bench.types import Batch


def measure_saving(subject: Subject, inputs: Inputs, dense: DenseCost) -> Part:
    """Both savings at the point that is set, as shares of the dense FLOPs, on one largest batch.

    And the share that closed gates leave, without what the gates themselves execute.
    """
    size = inputs.largest
    return Part(_savings(subject, inputs.by_size[size][0], dense.per_sample[size] * size, dense))


def _savings(subject: Subject, batch: Batch, dense_flops: float, dense: DenseCost) -> Metrics:
    """The metrics on `batch`, which costs the dense model `dense_flops`."""
    own = _spend(subject, batch)  # by the method's own decisions
    if own.num_decisions == 0:
        return _all_missing(NO_DECISION)
    try:
        with routing.force("open"):
            opened = _spend(subject, batch)
    # Open gates need not be defined, and whatever a method raises then is no finding against it.
    except Exception as error:
        return _all_missing(f"the gates cannot be opened: {type(error).__name__}: {error}")
    if not dense_flops:
        return _all_missing("the dense model executed no FLOPs")
    doubt = own.doubt or opened.doubt or dense.doubt
    # Both against open gates, whose work outside the gates is the same and drops out.
    declared = (opened.declared - own.declared) / dense_flops
    executed = (opened.executed - own.executed) / dense_flops
    undeclared = own.undeclared or opened.undeclared
    return {
        DECLARED_SAVING.at(): metric(DECLARED_SAVING, declared, undeclared or doubt),
        EXECUTED_SAVING.at(): metric(EXECUTED_SAVING, executed, doubt),
        CLOSED_SHARE.at(): _closed_share(subject, batch, dense_flops, dense.doubt),
    }


def _closed_share(subject: Subject, batch: Batch, dense_flops: float, doubt: str | None) -> Metric:
    """Share of the dense FLOPs that closed gates leave."""
    try:
        with routing.force("closed"):
            closed = _spend(subject, batch)
    except Exception as error:
        reason = f"the gates cannot be closed: {type(error).__name__}: {error}"
        return missing_metric(CLOSED_SHARE, reason)
    # Without the gates' own work: a costly router alone must not pass for work that never stops.
    share = (closed.executed - closed.of_gates) / dense_flops
    return metric(CLOSED_SHARE, share, doubt or closed.doubt)


@dataclass(frozen=True)
class _Spent:
    """FLOPs of one call: declared by its decisions, and executed."""

    declared: float
    undeclared: str | None  # why `declared` is NaN
    executed: int
    of_gates: int  # executed in the regions where gates decide
    num_decisions: int
    doubt: str | None  # why `executed` is only a lower bound


def _spend(subject: Subject, batch: Batch) -> _Spent:
    with torch.inference_mode(), routing.observe() as seen:
        counts = count_samples(subject.model, [batch])
    declared, undeclared = declared_flops(subject, seen)
    return _Spent(
        declared=declared,
        undeclared=undeclared,
        executed=counts.total,
        of_gates=sum(counts.by_region.get(name, 0) for name in routing.GATE_REGIONS),
        num_decisions=len(seen.decisions),
        doubt=doubt_of(counts),
    )


def _all_missing(reason: str) -> Metrics:
    entries = (DECLARED_SAVING, EXECUTED_SAVING, CLOSED_SHARE)
    return {entry.at(): missing_metric(entry, reason) for entry in entries}
