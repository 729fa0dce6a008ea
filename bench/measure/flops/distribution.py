"""How executed FLOPs spread over inputs: percentiles and the largest, over more than are timed.

A count takes milliseconds where a timing takes hundreds: the tail can be asked of more inputs. The
mean, and every ratio, stays with the inputs that are timed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.measure.flops.cost import counted, doubt_of
from bench.measure.subject import Metrics, Subject
from bench.records.record import Metric, missing
from bench.statistics import quantile_interval
from bench.types import Batch

PERCENTILES = (50, 90, 99)
STEM = "infer/flops_per_sample"


def measure_distribution(
    subject: Subject, timed: np.ndarray, doubt: str | None, further: Sequence[Batch]
) -> tuple[Metrics, np.ndarray]:
    """The percentiles at the point that is set, and the FLOPs of every input that was counted.

    `timed` holds those of the timed inputs, with the `doubt` of their count. A percentile needs ten
    inputs beyond it (p90 100, p99 1000), as in latency; with fewer it is missing, with the reason.
    """
    more = counted(subject.model, further)
    flops = np.concatenate([timed, np.array(more.per_batch, dtype=timed.dtype)])
    doubt = doubt or doubt_of(more)
    metrics = {f"{STEM}_p{percent}": _percentile(flops, percent, doubt) for percent in PERCENTILES}
    metrics[f"{STEM}_max"] = _flop(float(flops.max()), doubt)
    metrics["infer/num_flops_inputs"] = Metric(value=len(flops), unit="count")
    return metrics, flops


def _percentile(flops: np.ndarray, percent: int, doubt: str | None) -> Metric:
    found = quantile_interval(flops, percent / 100)
    if found.value is None:
        return missing("flop", found.reason or "unknown")
    return _flop(found.value, doubt, found.low, found.high)


def _flop(
    value: float, doubt: str | None, low: float | None = None, high: float | None = None
) -> Metric:
    return Metric(value=value, unit="flop", low=low, high=high, valid=doubt is None, reason=doubt)
