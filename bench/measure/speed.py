"""Time, paired with the dense model in this process over the same real inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import interval_metric, metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.time.paired import NOISE_LIMITS, PairedTiming, compare, run_control
from bench.records import environment
from bench.records.catalogue import (
    DEVICE_SHARE,
    NOISE_FLOOR,
    REALISED,
    SAVING_REALISED,
    SPEEDUP,
    TAU,
    THROUGHPUT,
)
from bench.records.record import Metric
from bench.statistics import Interval, realised_share, saving_realised

GPU_WARMUP = 5 / 3  # a GPU's clocks take longer: 5 s where a CPU warms up for 3 s
# Of every round on a GPU, where NVML returns them; NaN where it does not.
CLOCKS = ("sm_mhz", "memory_mhz", "temperature_c", "power_w")


def measure_speed(subject: Subject, baseline: nn.Module, inputs: Inputs, flops: Metrics) -> Part:
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
        metrics |= _realised(timing, flops.get(TAU.at(size)), size)
        raw |= _raw_rounds(timing, size)
        # The load tells a disturbed measurement from a slow machine.
        load = {"load_1min_before": load_before, "load_1min_after": environment.load()}
        details[f"b{size}"] = _details(timing) | load
    return Part(metrics, raw, diagnostics={"timing": details})


def without_speed(subject: Subject) -> Part:
    """The speed-ups of an operating point that is not timed, missing with the reason."""
    reason = f"measure={subject.config.profile} times the default operating point only"
    sizes = subject.config.batch_sizes
    return Part({SPEEDUP.at(size): missing_metric(SPEEDUP, reason) for size in sizes})


def _settings(subject: Subject) -> dict[str, Any]:
    config = subject.config
    longer = GPU_WARMUP if subject.device.type == "cuda" else 1.0
    return {
        "rounds": config.rounds,
        "warmup_s": config.warmup_s * longer,
        "block_ms": config.block_ms,
    }


def _details(timing: PairedTiming) -> dict[str, Any]:
    """How it was timed, for a reader who doubts a ratio."""
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
    if timing.ratio is None:
        reason = timing.reason or "no round counts"
        return {entry.at(size): missing_metric(entry, reason) for entry in (SPEEDUP, THROUGHPUT)}
    doubt = _doubt(timing)
    metrics = {
        SPEEDUP.at(size): metric(
            SPEEDUP, timing.ratio, doubt, low=timing.ci_low, high=timing.ci_high
        ),
        THROUGHPUT.at(size): metric(THROUGHPUT, timing.candidate_samples_per_s, doubt),
    }
    if timing.candidate_device_share is not None:
        # Well below 1 means bound by kernel launches. No doubt applies: host and device share it.
        metrics[DEVICE_SHARE.at(size)] = metric(DEVICE_SHARE, timing.candidate_device_share)
    return metrics


def _noise_floor(timing: PairedTiming, size: int, subject: Subject) -> Metrics:
    """How far the A/A control is from 1.

    A high floor is no error. It stays valid, and its reason is a remark beside the number.
    """
    floor = timing.noise_floor
    if floor is None:
        return {}
    is_noisy = floor > NOISE_LIMITS.get(subject.device.type, NOISE_LIMITS["cpu"])
    remark = f"timing noise: identical models differed by up to {floor:.1%}"
    found = Metric(value=floor, unit=NOISE_FLOOR.unit, reason=remark if is_noisy else None)
    return {NOISE_FLOOR.at(size): found}


def _doubt(timing: PairedTiming) -> str | None:
    """Why neither the ratio nor anything derived from it may be shown."""
    return timing.reason or (None if timing.steady else "times never settled in the warm-up")


def _realised(timing: PairedTiming, tau: Metric | None, size: int) -> Metrics:
    """The share of the FLOP ratio that became a time ratio, with sigma's own rounds."""
    entries = (REALISED, SAVING_REALISED)
    doubt = _doubt(timing)
    if timing.ratio is None or doubt or tau is None or tau.shown is None:
        reason = doubt or (tau.reason if tau else "FLOPs not counted") or "no round counts"
        return {entry.at(size): missing_metric(entry, reason) for entry in entries}
    sigma = Interval(
        timing.ratio, timing.ci_low, timing.ci_high, len(timing.valid_rounds), "paired rounds"
    )
    shares = (realised_share(sigma, tau.shown), saving_realised(sigma, tau.shown))
    return {
        entry.at(size): interval_metric(entry, share)
        for entry, share in zip(entries, shares, strict=True)
    }


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
        for name in CLOCKS:
            raw[f"{name}_b{size}"] = _numbers(getattr(state, name) for state in states)
        raw[f"clock_events_b{size}"] = np.array([" ".join(state.events) for state in states])
    return raw


def _numbers(values: Iterable[float | None]) -> np.ndarray:
    """`values` with NaN for None: an array of objects would need pickle."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
