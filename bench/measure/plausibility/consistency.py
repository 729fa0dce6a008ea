"""Numbers that contradict themselves or one another: signs, intervals, order, ratios."""

from __future__ import annotations

from itertools import pairwise

from bench.measure.plausibility.facts import (
    ROUNDING,
    Doubts,
    Facts,
    Metrics,
    same,
    sizes,
    value,
    values,
)

NEVER_NEGATIVE = ("flop", "bytes", "s", "ms", "j", "samples/s", "count")
NEVER_ZERO = ("bytes", "ms", "j", "samples/s")  # at inference: missing is null, never 0


def signs(metrics: Metrics, facts: Facts) -> Doubts:
    """Amounts are never negative, and at inference none is 0."""
    for key, metric in metrics.items():
        if metric.value is None or metric.unit not in NEVER_NEGATIVE:
            continue
        if key.startswith("infer/quality"):  # a task's own unit
            continue
        if metric.value < 0:
            yield key, f"a negative number of {metric.unit}"
        elif metric.value == 0 and metric.unit in NEVER_ZERO and key.startswith("infer/"):
            yield key, f"0 {metric.unit}: the meter saw nothing"


def intervals(metrics: Metrics, facts: Facts) -> Doubts:
    """A number lies in its own interval."""
    for key, metric in metrics.items():
        if metric.value is None:
            continue
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        if not low <= metric.value <= high:
            yield key, f"outside its own interval {low:.4g} to {high:.4g}"


def order(metrics: Metrics, facts: Facts) -> Doubts:
    """Percentiles rise, and no mean lies above the largest value."""
    for stem in ("infer/flops_per_sample", "infer/latency_ms"):
        keys = [f"{stem}_{name}" for name in ("p50", "p90", "p99", "max")]
        present = [(key, found) for key in keys if (found := value(metrics, key)) is not None]
        for (lower_key, lower), (upper_key, upper) in pairwise(present):
            if lower > upper * (1 + ROUNDING):
                for key in (lower_key, upper_key):
                    yield key, f"{lower_key} is above {upper_key}"
        mean_max = values(metrics, stem, f"{stem}_max")
        if mean_max and mean_max[0] > mean_max[1] * (1 + ROUNDING):
            yield stem, "the mean is above the largest value"


def ratios(metrics: Metrics, facts: Facts) -> Doubts:
    """realised = speed-up / tau at every batch size; tau = dense / method FLOPs."""
    for size in sizes(metrics, "infer/realised"):
        names = (f"infer/realised_b{size}", f"infer/tau_b{size}", f"infer/speedup_b{size}")
        found = values(metrics, *names)
        if found and not same(found[0] * found[1], found[2]):
            yield names[0], f"{found[0]:.4g} is not speed-up {found[2]:.4g} / tau {found[1]:.4g}"
    share = values(metrics, "infer/flops_share", "infer/tau_b1")
    if share and not same(share[0] * share[1], 1.0):
        for key in ("infer/flops_share", "infer/tau_b1"):
            yield key, f"FLOP share {share[0]:.4g} and ratio {share[1]:.4g} contradict each other"


def active_params(metrics: Metrics, facts: Facts) -> Doubts:
    """No sample uses more parameters than there are."""
    found = values(metrics, "model/active_params_per_sample", "model/params")
    if found and found[0] > found[1]:
        yield "model/active_params_per_sample", "more parameters active than there are"
