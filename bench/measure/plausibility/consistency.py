"""Numbers that contradict themselves or one another: signs, intervals, order, ratios."""

from __future__ import annotations

from itertools import pairwise

from bench.measure.plausibility.facts import ROUNDING, Doubts, Facts, Metrics, same, value, values
from bench.records.catalogue import (
    ACTIVE_PARAMS,
    FLOPS,
    FLOPS_PERCENTILE,
    FLOPS_SHARE,
    LATENCY,
    MAX_FLOPS,
    PARAMS,
    QUALITY,
    REALISED,
    SPEEDUP,
    TAU,
)

NEVER_NEGATIVE = ("flop", "bytes", "s", "ms", "j", "samples/s", "count")
NEVER_ZERO = ("bytes", "ms", "j", "samples/s")  # at inference: missing is null, never 0
PERCENTILES = (50, 90, 99)


def signs(metrics: Metrics, facts: Facts) -> Doubts:
    """Amounts are never negative, and at inference none is 0."""
    for key, metric in metrics.items():
        if metric.value is None or metric.unit not in NEVER_NEGATIVE:
            continue
        if key.startswith(QUALITY.at()):  # a task's own unit may be called "s" and be negative
            continue
        # Zero is possible in training: a frozen model has no gradients.
        if metric.value < 0:
            yield key, f"a negative number of {metric.unit}"
        elif metric.value == 0 and metric.unit in NEVER_ZERO and key.startswith("infer/"):
            yield key, f"0 {metric.unit}: the meter measured nothing"


def intervals(metrics: Metrics, facts: Facts) -> Doubts:
    """A number lies in its own interval."""
    for key, metric in metrics.items():
        if metric.value is None:
            continue
        # A missing bound is no limit on that side.
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        if not low <= metric.value <= high:
            yield key, f"outside its own interval {low:.4g} to {high:.4g}"


def order(metrics: Metrics, facts: Facts) -> Doubts:
    """Percentiles rise, and no mean lies above the largest value."""
    flops = [FLOPS_PERCENTILE.at(percent) for percent in PERCENTILES]
    latencies = [LATENCY.at(percent) for percent in PERCENTILES]
    for keys in ([*flops, MAX_FLOPS.at()], latencies):
        # Neighbours that are there: p99 is missing with fewer than 1,000 inputs.
        present = [(key, found) for key in keys if (found := value(metrics, key)) is not None]
        for (lower_key, lower), (upper_key, upper) in pairwise(present):
            if lower > upper * (1 + ROUNDING):
                for key in (lower_key, upper_key):
                    yield key, f"{lower_key} is above {upper_key}"
    mean_and_max = values(metrics, FLOPS.at(), MAX_FLOPS.at())
    if mean_and_max and mean_and_max[0] > mean_and_max[1] * (1 + ROUNDING):
        yield FLOPS.at(), "the mean is above the largest value"


def ratios(metrics: Metrics, facts: Facts) -> Doubts:
    """realised = speed-up / tau at every batch size; tau = dense / method FLOPs."""
    for size in REALISED.batch_sizes(metrics):
        found = values(metrics, *(entry.at(size) for entry in (REALISED, TAU, SPEEDUP)))
        if found and not same(found[0] * found[1], found[2]):
            why = f"{found[0]:.4g} is not speed-up {found[2]:.4g} / tau {found[1]:.4g}"
            yield REALISED.at(size), why
    # Both are counted at batch 1, so one is the other's reciprocal.
    keys = (FLOPS_SHARE.at(), TAU.at(1))
    share = values(metrics, *keys)
    if share and not same(share[0] * share[1], 1.0):
        for key in keys:
            yield key, f"FLOP share {share[0]:.4g} and ratio {share[1]:.4g} contradict each other"


def active_params(metrics: Metrics, facts: Facts) -> Doubts:
    """No sample uses more parameters than there are."""
    found = values(metrics, ACTIVE_PARAMS.at(), PARAMS.at())
    if found and found[0] > found[1]:
        yield ACTIVE_PARAMS.at(), "more parameters active than there are"
