"""Physical plausibility: numbers that cannot be true are kept, marked invalid, and shown nowhere.

    metrics = check(metrics, Facts(peak_flops=..., parameter_bytes=...))

Each gate compares a record's metrics with one another or with a fact about the machine. They are
cheap, and they catch most meter bugs: a missing synchronisation, a leaked window, a lost part.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.measure.plausibility import consistency, energy, flops, memory, speed
from bench.measure.plausibility.facts import Doubts, Facts, Metrics
from bench.records.record import Metric

__all__ = ["Facts", "check"]

# Where several gates doubt one number, the first gives the reason.
GATES: tuple[Callable[[Metrics, Facts], Doubts], ...] = (
    consistency.signs,
    consistency.intervals,
    speed.achieved_flops,
    flops.unseen,
    flops.none,
    flops.hidden,
    memory.peaks,
    memory.resident,
    memory.training_parts,
    speed.time_shares,
    flops.regions,
    consistency.order,
    consistency.ratios,
    consistency.active_params,
    speed.control,
    energy.zero,
    energy.power,
    energy.training_power,
)


def check(metrics: Metrics, facts: Facts) -> dict[str, Metric]:
    """The metrics, with `valid=False` and a reason where a number is implausible.

    Pure: the given metrics stay as they are. Metrics that are already missing or invalid keep
    their reason and make no other one invalid.
    """
    doubts: dict[str, str] = {}  # key -> reason
    for gate in GATES:
        for key, reason in gate(metrics, facts):
            doubts.setdefault(key, reason)  # all gates see the metrics as they were given
    return {
        key: metric.model_copy(update={"valid": False, "reason": f"withheld: {doubts[key]}"})
        if key in doubts and metric.shown is not None
        else metric
        for key, metric in metrics.items()
    }
