"""Where the time of a method's pass goes, beside the dense model's: four parts per batch size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.time.products import ROUTING, product_share
from bench.records.catalogue import (
    IDEAL_TIME,
    OTHER_TIME,
    PRODUCT_TIME,
    REGION_TIME,
    ROUTING_TIME,
    SPEEDUP,
    TAU,
)
from bench.statistics.time_parts import Shares, TimeParts, time_parts
from bench.types import Batch

ENTRIES = (IDEAL_TIME, ROUTING_TIME, PRODUCT_TIME, OTHER_TIME)


def measure_time_parts(
    subject: Subject, baseline: nn.Module, inputs: Inputs, metrics: Metrics
) -> Part:
    """The four parts at every batch size; none for the dense model itself.

    `metrics` holds speed-ups, FLOP ratios and shares of regions of the same point. Where one is
    missing, so are the parts.
    """
    found: Metrics = {}
    for size, batches in inputs.by_size.items() if not subject.is_dense else ():
        parts = _parts(subject.model, baseline, batches, metrics, size)
        if isinstance(parts, str):
            found |= {entry.at(size): missing_metric(entry, parts) for entry in ENTRIES}
            continue
        values = (parts.ideal, parts.routing, parts.products, parts.rest)
        for entry, value in zip(ENTRIES, values, strict=True):
            found[entry.at(size)] = metric(entry, value)
    return Part(found)


def _parts(
    model: nn.Module, baseline: nn.Module, batches: Sequence[Batch], metrics: Metrics, size: int
) -> TimeParts | str:
    """The parts at a batch size, or why there are none."""
    ratios = []
    for key in (SPEEDUP.at(size), TAU.at(size)):
        ratio = metrics.get(key)
        if ratio is None or ratio.shown is None:
            return (ratio.reason if ratio else None) or f"{key} was not measured"
        ratios.append(float(ratio.shown))
    try:
        own, dense = (product_share(each, batches) for each in (model, baseline))
    except Exception as error:  # an operation of a plugin may refuse the numbers that stand in
        return f"the products did not run alone: {type(error).__name__}: {error}"
    # A region that was never entered has no metric.
    regions = (metrics.get(REGION_TIME.at(name, size)) for name in ROUTING)
    routing_time = sum(float(each.value or 0) for each in regions if each is not None)
    speedup, tau = ratios
    return time_parts(speedup, tau, Shares(routing_time, own.routing_flops, own.time), dense.time)
