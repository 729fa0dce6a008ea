"""Batch-1 latency over real inputs, and where a pass spends its time."""

from __future__ import annotations

import numpy as np

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.time.latency import time_each_input
from bench.meters.time.regions import time_by_region, time_shares
from bench.records.record import Metric, missing

PERCENTILES = (50, 90, 99)
SHOWN_REGIONS = ("router", "dispatch", "expert", "combine", "exit_head")


def measure_latency(subject: Subject, inputs: Inputs) -> tuple[Metrics, np.ndarray]:
    """`infer/latency_ms_p50` and so on over inputs, and every input's median [num_inputs]."""
    timed = time_each_input(subject.model, inputs.samples)
    metrics = {"infer/latency_ms_mean": Metric(value=timed.mean_ms, unit="ms")}
    for percent in PERCENTILES:
        found = timed.percentile(percent)
        metrics[f"infer/latency_ms_p{percent}"] = (
            missing("ms", found.reason or "unknown")
            if found.value is None
            else Metric(value=found.value, unit="ms", low=found.low, high=found.high)
        )
    return metrics, timed.per_input_ms


def measure_time_shares(subject: Subject, inputs: Inputs) -> Metrics:
    """Each region's share of a pass at batch 1 and at the largest batch size.

    A probe of its own: never inside a timed region. Regions that the method does not name count as
    backbone and have no metric.
    """
    metrics = {}
    for size in {1, max(inputs.by_size)}:
        shares = time_shares(time_by_region(subject.model, inputs.by_size[size], passes=1))
        for region in SHOWN_REGIONS:
            if region in shares:
                name = f"infer/time_share_{region}_b{size}"
                metrics[name] = Metric(value=shares[region], unit="1")
    return metrics
