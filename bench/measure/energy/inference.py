"""Energy per sample beside the dense model's, or in one line why there is none.

At the largest batch size, at the default operating point (at all with `measure.all_points`), in
windows of `measure.energy_window_s` that alternate with the dense model's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bench.measure.inputs import Inputs
from bench.measure.subject import Findings, Metrics, Subject
from bench.meters.conditions import evaluation_mode
from bench.meters.energy import EnergyMeter, EnergyReading, EnergyRefused
from bench.meters.energy.rapl import SHORTEST_S, CpuEnergy
from bench.meters.energy.repeats import WINDOWS, EnergyComparison, compare_energy, repeat
from bench.records.record import Metric, missing
from bench.statistics import Interval, mean_interval
from bench.types import Batch

OpenMeter = Callable[[torch.device], EnergyMeter]
OpenCounter = Callable[[], CpuEnergy]
ENERGY, NET, RATIO = "energy_j_per_sample", "energy_net_j_per_sample", "energy_ratio"
CPU_ENERGY = "infer/cpu_energy_j_per_sample"
FAKE = "measured with a fake device"


def measure_energy(
    subject: Subject,
    baseline: nn.Module,
    inputs: Inputs,
    findings: Findings,
    open_meter: OpenMeter = EnergyMeter,
    open_counter: OpenCounter = CpuEnergy,
) -> list[Metrics]:
    """Energy metrics of every operating point; conditions and windows go into the diagnostics.

    A refusal is a missing metric with the case's name and never ends the trial.
    """
    points, profile = subject.points(), subject.config.profile
    num_measured = len(points) if subject.config.all_points else 1
    found: list[Metrics] = []
    for point in points[:num_measured]:
        with subject.at(point), evaluation_mode(subject.model, baseline):
            gpu, told = _gpu_metrics(subject, baseline, inputs, open_meter)
            findings.diagnostics.setdefault("energy", []).append({"point": dict(point), **told})
            cpu = _cpu_metric(subject, subject.model, inputs, open_counter)
            found.append({**gpu, CPU_ENERGY: cpu})
    reason = f"measure={profile} measures energy at the default operating point only"
    return found + [_none(reason) for _ in points[num_measured:]]


def measure_alone(
    subject: Subject,
    model: nn.Module,
    inputs: Inputs,
    open_meter: OpenMeter = EnergyMeter,
    open_counter: OpenCounter = CpuEnergy,
) -> Metrics:
    """Energy per sample of the GPU and of the CPU for `model`, beside no other one."""
    size = max(inputs.by_size)
    with evaluation_mode(model):
        cpu = _cpu_metric(subject, model, inputs, open_counter)
        try:
            with open_meter(subject.device) as meter:
                passes = Passes(model, inputs.by_size[size])
                repeats = repeat(meter, passes, subject.config.energy_window_s)
        except EnergyRefused as refusal:
            return {f"infer/{ENERGY}": missing("j", refusal.reason), CPU_ENERGY: cpu}
    doubt = FAKE if repeats.readings[0].device == "fake" else repeats.reason
    joules = repeats.interval.map(lambda each: each / inputs.num_issued(size))
    return {f"infer/{ENERGY}": _metric(joules, "j", doubt), CPU_ENERGY: cpu}


class Passes:
    """Whole passes over batches, each from another batch on: load and sensor share no phase."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, list(batches)
        self._vary = random.Random(0)

    def __call__(self) -> None:
        first = self._vary.randrange(len(self.batches))
        for batch in self.batches[first:] + self.batches[:first]:
            self.model(batch)


def _gpu_metrics(
    subject: Subject, baseline: nn.Module, inputs: Inputs, open_meter: OpenMeter
) -> tuple[Metrics, dict[str, Any]]:
    """Metrics at the point that is set, and under which conditions they were measured."""
    size = max(inputs.by_size)
    batches, seconds = inputs.by_size[size], subject.config.energy_window_s
    dense = subject.model if subject.is_dense else baseline  # dense against itself: the control
    told: dict[str, Any] = {}
    try:
        with open_meter(subject.device) as meter:
            told["device"] = meter.rig.board.device  # also of a measurement that fails later
            passes = (Passes(subject.model, batches), Passes(dense, batches))
            compared = compare_energy(meter, *passes, seconds)
            told |= {**meter.facts(), "batch_size": size, **_windows(compared)}
    except EnergyRefused as refusal:
        return _none(refusal.reason), {**told, "refused": refusal.reason}
    return _metrics(compared, inputs.num_issued(size)), told


def _metrics(compared: EnergyComparison, num_samples: int) -> Metrics:
    """Joules per sample and their ratio; those of a whole module under names of their own."""
    readings = compared.candidate.readings
    doubt = FAKE if readings[0].device == "fake" else compared.reason
    whole = compared.candidate.interval.map(lambda joules: joules / num_samples)
    net = _mean([each.net_j / each.num_passes for each in readings]) / num_samples
    ratios = [each.integral_ratio for each in readings if each.integral_ratio is not None]
    found = {
        ENERGY: _metric(whole, "j", doubt),
        NET: _single(net, "j", doubt),
        RATIO: _metric(compared.ratio, "1", doubt),
        "energy_mean_power_w": _single(_mean([e.mean_power_w for e in readings]), "w", doubt),
        "energy_idle_power_w": _single(_mean([e.idle_w for e in readings]), "w", doubt),
        "energy_counter_ratio": _single(_mean(ratios), "1", doubt)
        if ratios
        else missing("1", doubt or "power was not polled"),
    }
    limit_w = readings[0].power_limit_w
    if limit_w is not None:
        found["energy_power_limit_w"] = Metric(value=limit_w, unit="w")
    if readings[0].scope == "module":
        reason = "only the whole module's energy can be read (scope=module)"
        named = {f"infer/module_{name}": metric for name, metric in found.items()}
        return {**_none(reason), **named}
    return {f"infer/{name}": metric for name, metric in found.items()}


def _windows(compared: EnergyComparison) -> dict[str, Any]:
    """Every window in numbers, in the order of its model's."""
    both = {"candidate": compared.candidate, "baseline": compared.baseline}
    return {name: [_told(each) for each in repeats.readings] for name, repeats in both.items()}


def _told(reading: EnergyReading) -> dict[str, Any]:
    return {
        "gross_j": reading.gross_j,
        "idle_j": reading.idle_j,
        "window_s": reading.window_s,
        "num_passes": reading.num_passes,
        "uncertainty": reading.uncertainty,
        "integral_j": reading.integral_j,
        "temperature_c": list(reading.temperature_c),
        "sm_mhz": reading.state.sm_mhz if reading.state else None,
        "memory_mhz": reading.state.memory_mhz if reading.state else None,
        "events": list(reading.state.events) if reading.state else [],
        "grade": reading.grade,
        "reason": reading.reason,
    }


def _cpu_metric(
    subject: Subject, model: nn.Module, inputs: Inputs, open_counter: OpenCounter
) -> Metric:
    """Joules of the CPU packages per sample of `model`, or why there are none."""
    size = max(inputs.by_size)
    passes = Passes(model, inputs.by_size[size])

    def waited_for() -> None:
        passes()
        if subject.device.type == "cuda":
            torch.cuda.synchronize(subject.device)

    try:
        counter = open_counter()
        seconds = max(SHORTEST_S, subject.config.energy_window_s)
        readings = [counter.measure(waited_for, seconds) for _ in range(WINDOWS)]
    except EnergyRefused as refusal:
        return missing("j", refusal.reason)
    joules = mean_interval([each.j_per_pass for each in readings])
    return _metric(joules.map(lambda each: each / inputs.num_issued(size)), "j", None)


def _none(reason: str) -> Metrics:
    return {
        f"infer/{ENERGY}": missing("j", reason),
        f"infer/{RATIO}": missing("1", reason),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _single(value: float, unit: str, doubt: str | None) -> Metric:
    return Metric(value=value, unit=unit, valid=doubt is None, reason=doubt)


def _metric(interval: Interval, unit: str, doubt: str | None) -> Metric:
    if interval.value is None:
        return missing(unit, doubt or interval.reason or "unknown")
    return Metric(
        value=interval.value,
        unit=unit,
        low=interval.low,
        high=interval.high,
        valid=doubt is None,
        reason=doubt,
    )
