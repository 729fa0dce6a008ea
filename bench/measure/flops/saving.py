"""What the gates save, as declared and as executed: here a method that only masks is found.

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
from bench.measure.flops.cost import DenseCost, doubt_of
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import count_samples
from bench.records.record import Metric, missing
from bench.types import Batch

KEYS = ("infer/declared_saving", "infer/executed_saving")
LEAST = "infer/flops_share_closed"


def measure_saving(subject: Subject, inputs: Inputs, dense: DenseCost) -> Metrics:
    """Both savings at the point that is set, as shares of the dense FLOPs, on one largest batch.

    And the share that closed gates leave, without what the gates themselves execute.
    """
    size = max(inputs.by_size)
    batch = inputs.by_size[size][0]
    own = _spend(subject, batch)
    if own.num_decisions == 0:
        return _all_missing("the method announced no decision")
    try:
        with routing.force("open"):
            opened = _spend(subject, batch)
    except Exception as error:  # open gates need not be defined: what is unknown is no accusation
        return _all_missing(f"the gates cannot be opened: {type(error).__name__}: {error}")
    whole = dense.per_sample[size] * size
    if not whole:
        return _all_missing("the dense model executed no FLOPs")
    doubt = own.doubt or opened.doubt or dense.doubt
    savings = (opened.declared - own.declared, opened.executed - own.executed)
    found = {
        key: Metric(value=saving / whole, unit="1", valid=doubt is None, reason=doubt)
        for key, saving in zip(KEYS, savings, strict=True)
    }
    return {**found, LEAST: _least(subject, batch, whole, dense.doubt)}


def _least(subject: Subject, batch: Batch, whole: float, doubt: str | None) -> Metric:
    """Share of the dense FLOPs that closed gates leave."""
    try:
        with routing.force("closed"):
            closed = _spend(subject, batch)
    except Exception as error:
        return missing("1", f"the gates cannot be closed: {type(error).__name__}: {error}")
    doubt = doubt or closed.doubt
    share = (closed.executed - closed.of_gates) / whole
    return Metric(value=share, unit="1", valid=doubt is None, reason=doubt)


@dataclass(frozen=True)
class _Spent:
    """FLOPs of one call: declared by its decisions, and executed."""

    declared: float
    executed: int
    of_gates: int  # executed in the regions where gates decide
    num_decisions: int
    doubt: str | None  # why `executed` is only a lower bound


def _spend(subject: Subject, batch: Batch) -> _Spent:
    model = subject.model
    with torch.inference_mode(), routing.observe() as seen:
        counted = count_samples(model, [batch])
    declared = subject.declared_flops(seen)
    of_gates = sum(counted.by_region.get(name, 0) for name in routing.GATE_REGIONS)
    return _Spent(declared, counted.total, of_gates, len(seen.decisions), doubt_of(counted))


def _all_missing(reason: str) -> Metrics:
    return {key: missing("1", reason) for key in (*KEYS, LEAST)}
