"""Time, paired with the dense model in this process over the same real inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.time.paired import NOISE_LIMITS, PairedTiming, compare, run_control
from bench.records import environment
from bench.records.record import Metric, missing
from bench.statistics import Interval, realised_share, saving_realised

GPU_WARMUP = 5 / 3  # a GPU's clocks take longer: 5 s where a CPU warms up for 3 s


class Speed(NamedTuple):
    """Metrics, raw rounds by name, and how each batch size was timed."""

    metrics: Metrics
    raw: dict[str, np.ndarray]
    details: dict[str, dict[str, Any]]


def measure_speed(subject: Subject, baseline: nn.Module, inputs: Inputs, flops: Metrics) -> Speed:
    """Speed-up, realised share and throughput per batch size; raw rounds beside them.

    `flops` holds the FLOP metrics of the same point. The dense model is timed against itself:
    the A/A control, whose deviation from 1 is this machine's noise floor.
    """
    metrics: Metrics = {}
    raw: dict[str, np.ndarray] = {}
    details: dict[str, dict[str, Any]] = {}
    for size, batches in inputs.by_size.items():
        settings, load_before = _settings(subject), environment.load()
        if subject.is_dense:
            timing = run_control(subject.model, batches, **settings)
        else:
            timing = compare(subject.model, baseline, batches, **settings)
        metrics |= _timing_metrics(timing, size) | _noise_floor(timing, size, subject)
        metrics |= _realised(timing, flops.get(f"infer/tau_b{size}"), size)
        raw |= _raw_rounds(timing, size)
        details[f"b{size}"] = _details(timing) | {
            "load_1min_before": load_before,
            "load_1min_after": environment.load(),
        }
    return Speed(metrics, raw, details)


def _settings(subject: Subject) -> dict[str, Any]:
    config = subject.config
    longer = GPU_WARMUP if subject.device.type == "cuda" else 1.0
    return {
        "rounds": config.rounds,
        "warmup_s": config.warmup_s * longer,
        "block_ms": config.block_ms,
    }


def _details(timing: PairedTiming) -> dict[str, Any]:
    """How it was timed: what a reader who doubts a ratio asks for."""
    return {
        "steady": timing.steady,
        "warmup_s": round(timing.warmup_s, 3),
        "num_rounds": len(timing.rounds),
        "num_counted": len(timing.valid_rounds),
        "num_outliers": timing.num_outliers,
        "num_recompiles": timing.num_recompiles,
        "num_passes": list(timing.num_passes),
        "num_threads": timing.num_threads,
        "cores": sorted(os.sched_getaffinity(0)),
    }


def _timing_metrics(timing: PairedTiming, size: int) -> Metrics:
    name = f"infer/speedup_b{size}"
    if timing.ratio is None:
        reason = timing.reason or "no round counts"
        return {
            name: missing("1", reason),
            f"infer/throughput_b{size}": missing("samples/s", reason),
        }
    doubt = _doubt(timing)
    metrics = {
        name: Metric(
            value=timing.ratio,
            unit="1",
            low=timing.ci_low,
            high=timing.ci_high,
            valid=doubt is None,
            reason=doubt,
        ),
        f"infer/throughput_b{size}": Metric(
            value=timing.candidate_samples_per_s,
            unit="samples/s",
            valid=doubt is None,
            reason=doubt,
        ),
    }
    if timing.candidate_device_share is not None:
        share = Metric(value=timing.candidate_device_share, unit="1")
        metrics[f"infer/device_time_share_b{size}"] = share  # well below 1: bound by launches
    return metrics


def _noise_floor(timing: PairedTiming, size: int, subject: Subject) -> Metrics:
    """What the A/A control says of this session. A high floor is no error: it is told, not hidden.

    Valid with a reason is a number to show with that remark.
    """
    floor = timing.noise_floor
    if floor is None:
        return {}
    noisy = floor > NOISE_LIMITS.get(subject.device.type, NOISE_LIMITS["cpu"])
    told = f"a noisy session: the same model differs from itself by up to {floor:.1%}"
    metric = Metric(value=floor, unit="1", reason=told if noisy else None)
    return {f"infer/noise_floor_b{size}": metric}


def _doubt(timing: PairedTiming) -> str | None:
    """Why the ratio must not be shown, and nothing derived from it."""
    return timing.reason or (None if timing.steady else "times never settled in the warm-up")


def _realised(timing: PairedTiming, tau: Metric | None, size: int) -> Metrics:
    """The share of the FLOP ratio that became a time ratio, with sigma's own rounds."""
    names = (f"infer/realised_b{size}", f"infer/saving_realised_b{size}")
    doubt = _doubt(timing)
    if timing.ratio is None or doubt or tau is None or tau.shown is None:
        why = doubt or (tau.reason if tau else "FLOPs not counted")
        return {name: missing("1", why or "no round counts") for name in names}
    sigma = Interval(
        timing.ratio, timing.ci_low, timing.ci_high, len(timing.valid_rounds), "paired rounds"
    )
    shares = (realised_share(sigma, tau.shown), saving_realised(sigma, tau.shown))
    return {name: _metric(share) for name, share in zip(names, shares, strict=True)}


def _metric(interval: Interval) -> Metric:
    if interval.value is None:
        return missing("1", interval.reason or "unknown")
    return Metric(value=interval.value, unit="1", low=interval.low, high=interval.high)


def _raw_rounds(timing: PairedTiming, size: int) -> dict[str, np.ndarray]:
    """Every round's order, seconds and why it does not count ("": it does).

    On a GPU also device seconds, clocks (NaN: unknown) and clock events.
    """
    raw = {
        f"order_b{size}": np.array([each.order for each in timing.rounds]),
        f"reason_b{size}": np.array([each.reason or "" for each in timing.rounds]),
        f"candidate_s_b{size}": np.array([each.candidate_s for each in timing.rounds]),
        f"baseline_s_b{size}": np.array([each.baseline_s for each in timing.rounds]),
    }
    if any(each.candidate_device_s is not None for each in timing.rounds):
        for name in ("candidate_device_s", "baseline_device_s"):
            raw[f"{name}_b{size}"] = _numbers(getattr(each, name) for each in timing.rounds)
    states = [each.state for each in timing.rounds if each.state is not None]
    if states:
        for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w"):
            raw[f"{name}_b{size}"] = _numbers(getattr(state, name) for state in states)
        raw[f"clock_events_b{size}"] = np.array([" ".join(state.events) for state in states])
    return raw


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
