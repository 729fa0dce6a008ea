"""Batch-1 latency over real inputs, and where a pass spends its time."""

from __future__ import annotations

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import interval_metric, metric
from bench.measure.subject import Metrics, Subject
from bench.meters.time.latency import time_each_input
from bench.meters.time.regions import time_by_region, time_shares
from bench.records.catalogue import LATENCY, MEAN_LATENCY, REGION_TIME

PERCENTILES = (50, 90, 99)
MIN_S = 0.1  # of passes that are watched: one of a large batch alone takes milliseconds
# Without "backbone": it is the rest, so its share follows from the others.
SHOWN_REGIONS = ("router", "dispatch", "expert", "combine", "exit_head")


def measure_latency(subject: Subject, inputs: Inputs) -> Part:
    """`infer/latency_ms_p50` and so on over inputs; raw: every input's median [num_inputs]."""
    timed = time_each_input(subject.model, inputs.samples)
    metrics = {MEAN_LATENCY.at(): metric(MEAN_LATENCY, timed.mean_ms)}
    for percent in PERCENTILES:  # over inputs, never over repeats of one
        metrics[LATENCY.at(percent)] = interval_metric(LATENCY, timed.percentile(percent))
    return Part(metrics, raw={"latency_ms": timed.per_input_ms})


def measure_time_shares(subject: Subject, inputs: Inputs) -> Part:
    """Each region's share of a pass at every batch size.

    A probe of its own: never inside a timed region. Regions that the method does not name count as
    backbone and have no metric.
    """
    metrics: Metrics = {}
    for size, batches in inputs.by_size.items():
        shares = time_shares(time_by_region(subject.model, batches, passes=1, min_s=MIN_S))
        for region in SHOWN_REGIONS:
            if region in shares:
                metrics[REGION_TIME.at(region, size)] = metric(REGION_TIME, shares[region])
    return Part(metrics)
