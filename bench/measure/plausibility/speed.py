"""Times that cannot be: faster than the machine, more than the whole, faster than itself."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure.plausibility.facts import ROUNDING, Doubts, Facts, Metrics, value, values
from bench.records.catalogue import (
    FLOPS_BATCHED,
    FLOPS_PERCENTILE,
    IDEAL_TIME,
    LATENCY,
    OTHER_TIME,
    PRODUCT_TIME,
    REALISED,
    REGION_TIME,
    ROUTING_TIME,
    SAVING_REALISED,
    SPEEDUP,
    TAU,
    THROUGHPUT,
    TPOT_SPEEDUP,
    TRAIN_FLOPS,
    TRAIN_STEPS,
    TRAIN_TIME,
    TTFT_SPEEDUP,
)

CONTROL_MARGIN = 0.01  # how far beyond its interval an A/A ratio may lie from 1
PEAK_MARGIN = 1.05  # the peak itself is measured
PARTS = (IDEAL_TIME, ROUTING_TIME, PRODUCT_TIME, OTHER_TIME)
FROM_TIME = (THROUGHPUT, SPEEDUP, REALISED, SAVING_REALISED, *PARTS)  # what a wrong time voids
CONTROLLED = (SPEEDUP, TTFT_SPEEDUP, TPOT_SPEEDUP)  # ratios of the dense model to itself: 1


def achieved_flops(metrics: Metrics, facts: Facts) -> Doubts:
    """Nothing computes faster than the machine's fastest matrix product."""
    peak = facts.peak_flops
    if peak is None:
        return
    for rate, keys in _rates(metrics):
        if rate > peak * PEAK_MARGIN:
            for key in keys:
                yield key, _too_fast(rate, peak)


def _rates(metrics: Metrics) -> Iterator[tuple[float, list[str]]]:
    """Achieved FLOP/s, and the metrics that rest on the time in it."""
    for size in THROUGHPUT.batch_sizes(metrics):
        yield _rate(metrics, size), [entry.at(size) for entry in FROM_TIME]
    # Medians of both: the input of median cost need not be the one of median time, but nearly is.
    latency = values(metrics, FLOPS_PERCENTILE.at(50), LATENCY.at(50))
    if latency and latency[1]:
        keys = [LATENCY.at(percent) for percent in (50, 90, 99)]
        yield latency[0] / latency[1] * 1e3, keys  # FLOP / ms -> FLOP/s
    step = values(metrics, TRAIN_FLOPS.at(), TRAIN_STEPS.at(), TRAIN_TIME.at())
    if step and step[2]:
        yield step[0] * step[1] / step[2], [TRAIN_TIME.at()]


def _rate(metrics: Metrics, size: int) -> float:
    """FLOP/s of the candidate or its dense baseline at one batch size, whichever is higher."""
    own = values(metrics, THROUGHPUT.at(size), FLOPS_BATCHED.at(size))
    if own is None:
        return 0.0
    # dense FLOP/s = own FLOP/s x tau / sigma: a baseline that is too fast is a fault as well.
    ratios = values(metrics, TAU.at(size), SPEEDUP.at(size))
    dense_over_own = ratios[0] / ratios[1] if ratios and ratios[1] else 0.0
    return own[0] * own[1] * max(1.0, dense_over_own)


def _too_fast(rate: float, peak: float) -> str:
    return (
        f"{rate:.3g} FLOP/s are more than the {peak:.3g} that this machine reaches "
        "(a missing synchronisation, or FLOPs counted twice)"
    )


def time_shares(metrics: Metrics, facts: Facts) -> Doubts:
    """At one batch size, shares of one pass: none below 0, and together at most the whole."""
    by_size: dict[str, dict[str, float]] = {}
    for key in metrics:
        found, share = REGION_TIME.match(key), value(metrics, key)
        if found is not None and share is not None:
            _, size = found
            by_size.setdefault(size, {})[key] = share
    for shares in by_size.values():
        total = sum(shares.values())
        # Less than the whole is possible: the backbone's share is not recorded.
        if total > 1 + ROUNDING or min(shares.values()) < 0:
            for key in shares:
                yield key, f"shares between 0 and 1 cannot sum to {total:.4g}"


def control(metrics: Metrics, facts: Facts) -> Doubts:
    """The same model twice is equally fast, or the comparison itself is biased."""
    if not facts.is_control:
        return
    for key in (e.at(size) for e in CONTROLLED for size in e.batch_sizes(metrics)):
        metric = metrics[key]
        if metric.value is None or metric.low is None or metric.high is None:
            continue
        if metric.low > 1 + CONTROL_MARGIN or metric.high < 1 - CONTROL_MARGIN:
            yield key, f"self-comparison off by {abs(metric.value - 1):.1%}"
