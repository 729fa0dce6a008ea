"""Times that cannot be: faster than the machine, more than the whole, faster than itself."""

from __future__ import annotations

import re

from bench.measure.plausibility.facts import ROUNDING, Doubts, Facts, Metrics, sizes, value, values

CONTROL_MARGIN = 0.01  # how far beyond its interval an A/A ratio may lie from 1
PEAK_MARGIN = 1.05  # the peak itself is measured


def achieved_flops(metrics: Metrics, facts: Facts) -> Doubts:
    """Nothing computes faster than the machine's fastest matrix product."""
    if facts.peak_flops is None:
        return
    rates: list[tuple[float, list[str]]] = []  # achieved FLOP/s, metrics that rest on that time
    for size in sizes(metrics, "infer/throughput"):
        names = ("throughput", "speedup", "realised", "saving_realised")
        rates.append((_rate(metrics, size), [f"infer/{name}_b{size}" for name in names]))
    latency = values(metrics, "infer/flops_per_sample_p50", "infer/latency_ms_p50")
    if latency and latency[1]:
        keys = [f"infer/latency_ms_p{percent}" for percent in (50, 90, 99)]
        rates.append((latency[0] / latency[1] * 1e3, keys))
    step = values(metrics, "train/flops_per_step", "train/num_steps", "train/time_s")
    if step and step[2]:
        rates.append((step[0] * step[1] / step[2], ["train/time_s"]))
    for rate, keys in rates:
        if rate > facts.peak_flops * PEAK_MARGIN:
            for key in keys:
                yield key, _too_fast(rate, facts.peak_flops)


def _rate(metrics: Metrics, size: str) -> float:
    """FLOP/s of the candidate or its dense baseline at one batch size, whichever is higher."""
    own = values(metrics, f"infer/throughput_b{size}", f"infer/flops_per_sample_b{size}")
    if own is None:
        return 0.0
    ratios = values(metrics, f"infer/tau_b{size}", f"infer/speedup_b{size}")
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
        match = re.fullmatch(r"infer/time_share_\w+_b(\d+)", key)
        share = value(metrics, key)
        if match and share is not None:
            by_size.setdefault(match.group(1), {})[key] = share
    for shares in by_size.values():
        total = sum(shares.values())
        if total > 1 + ROUNDING or min(shares.values()) < 0:
            for key in shares:
                yield key, f"shares between 0 and 1 cannot sum to {total:.4g}"


def control(metrics: Metrics, facts: Facts) -> Doubts:
    """The same model twice is equally fast, or the comparison itself is biased."""
    if not facts.is_control:
        return
    stems = ("infer/speedup", "infer/ttft_speedup", "infer/tpot_speedup")
    for key in (f"{stem}_b{size}" for stem in stems for size in sizes(metrics, stem)):
        metric = metrics[key]
        if metric.low is None or metric.high is None:
            continue
        if metric.low > 1 + CONTROL_MARGIN or metric.high < 1 - CONTROL_MARGIN:
            yield key, f"the same model came out {metric.value:.3f} times as fast as itself"
