"""How executed FLOPs spread over inputs: percentiles and the largest, over more than are timed.

A count takes milliseconds where a timing takes hundreds, so the tail is counted over more inputs.
The mean, and every ratio, stays with the inputs that are timed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.measure.findings import Part
from bench.measure.flops.cost import count_inference, doubt_of
from bench.measure.metrics import interval_metric, metric
from bench.measure.subject import Subject
from bench.records.catalogue import FLOPS_INPUTS, FLOPS_PERCENTILE, MAX_FLOPS
from bench.records.record import Metric
from bench.statistics import quantile_interval
from bench.types import Batch

PERCENTILES = (50, 90, 99)


def measure_distribution(
    subject: Subject, timed: np.ndarray, doubt: str | None, further: Sequence[Batch]
) -> Part:
    """The percentiles at the point that is set; raw: the FLOPs of every input that was counted.

    `timed` holds those of the timed inputs, with the `doubt` of their count. A percentile needs ten
    inputs beyond it (p90 100, p99 1000), as in latency; with fewer it is missing, with the reason.
    """
    more = count_inference(subject.model, further)
    # Timed inputs first: raw.npz has them at the same places as their times.
    flops = np.concatenate([timed, np.array(more.per_batch, dtype=timed.dtype)])
    doubt = doubt or doubt_of(more)
    metrics = {
        FLOPS_PERCENTILE.at(percent): _percentile(flops, percent, doubt) for percent in PERCENTILES
    }
    # The largest needs no number of inputs: it is a fact about these ones, no estimate.
    metrics[MAX_FLOPS.at()] = metric(MAX_FLOPS, float(flops.max()), doubt)
    metrics[FLOPS_INPUTS.at()] = metric(FLOPS_INPUTS, len(flops))
    return Part(metrics, raw={"flops_counted": flops})


def _percentile(flops: np.ndarray, percent: int, doubt: str | None) -> Metric:
    found = quantile_interval(flops, percent / 100)
    # Too few inputs is the reason that a reader can act on; a doubt needs a number.
    return interval_metric(FLOPS_PERCENTILE, found, None if found.value is None else doubt)
