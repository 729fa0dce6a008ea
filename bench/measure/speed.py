"""Time, paired with the dense model in several processes over the same real inputs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import interval_metric, metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.time.paired import NOISE_LIMITS
from bench.meters.time.replicas import ReplicaError, Replicas
from bench.meters.time.replicated import PairedWork, ReplicatedTiming, replicate
from bench.records import environment
from bench.records.catalogue import (
    DEVICE_SHARE,
    NOISE_FLOOR,
    PROCESS_SD,
    REALISED,
    SAVING_REALISED,
    SPEEDUP,
    TAU,
    THROUGHPUT,
)
from bench.records.record import Metric
from bench.statistics import realised_share, saving_realised
from bench.statistics.processes import spread_of

GPU_WARMUP = 5 / 3  # a GPU's clocks take longer: 5 s where a CPU warms up for 3 s
# Of every round on a GPU, where NVML returns them; NaN where it does not.
CLOCKS = ("sm_mhz", "memory_mhz", "temperature_c", "power_w")


def measure_speed(
    subject: Subject,
    baseline: nn.Module,
    inputs: Inputs,
    flops: Metrics,
    replicas: Replicas | None = None,
) -> Part:
    """Speed-up, realised share and throughput per batch size; raw rounds beside them.

    `flops` holds the FLOP metrics of the same point. Each of `replicas` times the pair and an A/A
    control of its own, of two dense models that were built alike; without any, this process does
    alone, and no ratio gets an interval.
    """
    metrics: Metrics = {}
    raw: dict[str, np.ndarray] = {}
    details: dict[str, dict[str, Any]] = {}
    load_before = environment.load()
    timings, notes = _timings(paired_work(subject, baseline, inputs), replicas)
    # The load separates a disturbed measurement from a slow machine.
    load = {"load_1min_before": load_before, "load_1min_after": environment.load()}
    for size, timing in timings.items():
        metrics |= _timing_metrics(timing, size) | _noise_floor(timing, size, subject)
        metrics |= _realised(timing, flops.get(TAU.at(size)), size)
        raw |= _raw_rounds(timing, size)
        details[f"b{size}"] = _details(timing) | load
    return Part(metrics, raw, diagnostics={"timing": details}, notes=notes)


def _timings(
    work: PairedWork, replicas: Replicas | None
) -> tuple[dict[int, ReplicatedTiming], list[str]]:
    """The timings by batch size; where replicas fail, those of this process with a note."""
    try:
        return replicate(work, replicas), []
    except ReplicaError as error:
        return replicate(work, None), [f"timed in one process only: {error}"]


def paired_work(subject: Subject, baseline: nn.Module, inputs: Inputs) -> PairedWork:
    """What each process times: the subject beside `baseline` at every batch size."""
    config, kind = subject.config, subject.device.type
    longer = GPU_WARMUP if kind == "cuda" else 1.0
    is_cast = torch.is_autocast_enabled(kind)
    return PairedWork(
        candidate=subject.model,
        # One object for both: the dense model's own row is its control.
        baseline=subject.model if subject.is_dense else baseline,
        # Built as the baseline was: what the pipeline does to a model is in the control as well.
        twin=subject.make_baseline(),
        batches=inputs.by_size,
        rounds=math.ceil(config.rounds / config.processes),  # of each process
        warmup_s=config.warmup_s * longer,
        block_ms=config.block_ms,
        # A replica is a new process, which would start with its own defaults.
        num_threads=torch.get_num_threads(),
        autocast=(kind, torch.get_autocast_dtype(kind)) if is_cast else None,
    )


def without_speed(subject: Subject) -> Part:
    """The speed-ups of an operating point that is not timed, missing with the reason."""
    reason = f"measure={subject.config.profile} times the default operating point only"
    # The columns of a table; figures that rest on them are absent.
    sizes = subject.config.batch_sizes
    return Part({SPEEDUP.at(size): missing_metric(SPEEDUP, reason) for size in sizes})


def _details(timing: ReplicatedTiming) -> dict[str, Any]:
    """How it was timed, for a reader who doubts a ratio; lists have an entry per process."""
    timings = timing.timings
    return {
        "steady": all(each.steady for each in timings),
        "warmup_s": [round(each.warmup_s, 3) for each in timings],
        "num_processes": len(timings),
        "process_log_ratios": [float(median) for median in timing.medians],
        "num_rounds": len(timing.rounds),
        # Rounds without a reason against them; outliers are among them.
        "num_counted": sum(len(each.valid_rounds) for each in timings),
        "num_outliers": timing.num_outliers,
        "num_recompiles": sum(each.num_recompiles for each in timings),
        "num_passes": [list(each.num_passes) for each in timings],
        "num_threads": timings[0].num_threads,
        "cores": sorted(os.sched_getaffinity(0)),
    }


def _timing_metrics(timing: ReplicatedTiming, size: int) -> Metrics:
    found = timing.interval
    if found is None or found.value is None:
        reason = timing.reason or "no round counts"
        return {entry.at(size): missing_metric(entry, reason) for entry in (SPEEDUP, THROUGHPUT)}
    doubt = timing.reason
    metrics = {
        SPEEDUP.at(size): metric(SPEEDUP, found.value, doubt, low=found.low, high=found.high),
        THROUGHPUT.at(size): metric(THROUGHPUT, timing.candidate_samples_per_s, doubt),
        PROCESS_SD.at(size): _process_sd(timing),
    }
    if timing.candidate_device_share is not None:
        # Well below 1 means bound by kernel launches. No doubt applies: host and device share it.
        metrics[DEVICE_SHARE.at(size)] = metric(DEVICE_SHARE, timing.candidate_device_share)
    return metrics


def _process_sd(timing: ReplicatedTiming) -> Metric:
    """How much one process's ratio differs from another's: relative standard deviation."""
    spread = spread_of(timing.medians)
    if spread is None:
        return missing_metric(PROCESS_SD, "timed in one process")
    return metric(PROCESS_SD, spread.sd)


def _noise_floor(timing: ReplicatedTiming, size: int, subject: Subject) -> Metrics:
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


def _realised(timing: ReplicatedTiming, tau: Metric | None, size: int) -> Metrics:
    """The share of the FLOP ratio that became a time ratio, with sigma's own rounds."""
    entries = (REALISED, SAVING_REALISED)
    doubt, sigma = timing.reason, timing.interval
    if sigma is None or doubt or tau is None or tau.shown is None:
        reason = doubt or (tau.reason if tau else "FLOPs not counted") or "no round counts"
        return {entry.at(size): missing_metric(entry, reason) for entry in entries}
    # tau is an exact count, so the shares inherit sigma's interval alone.
    shares = (realised_share(sigma, tau.shown), saving_realised(sigma, tau.shown))
    return {
        entry.at(size): interval_metric(entry, share)
        for entry, share in zip(entries, shares, strict=True)
    }


def _raw_rounds(timing: ReplicatedTiming, size: int) -> dict[str, np.ndarray]:
    """Every round's order, seconds and why it does not count ("": it does).

    On a GPU also device seconds, clocks (NaN: unknown) and clock events.
    """
    raw = {
        f"process_b{size}": np.array(timing.process_of_rounds),
        f"order_b{size}": np.array([each.order for each in timing.rounds]),
        f"reason_b{size}": np.array([each.reason or "" for each in timing.rounds]),
        f"candidate_s_b{size}": np.array([each.candidate_s for each in timing.rounds]),
        f"baseline_s_b{size}": np.array([each.baseline_s for each in timing.rounds]),
    }
    # A CPU's rounds have none of these keys, instead of columns of NaN.
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
