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

from bench.measure.energy.joules import joule_metric, net_metric
from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import interval_metric, metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.conditions import evaluation_mode
from bench.meters.energy import EnergyMeter, EnergyReading, EnergyRefused
from bench.meters.energy.rapl import SHORTEST_S, CpuEnergy
from bench.meters.energy.repeats import WINDOWS, EnergyComparison, compare_energy, repeat
from bench.records.catalogue import (
    COUNTER_RATIO,
    CPU_ENERGY,
    CPU_NET_ENERGY,
    ENERGY,
    ENERGY_RATIO,
    IDLE_POWER,
    MEAN_POWER,
    NET_ENERGY,
    POWER_LIMIT,
    module_key,
)
from bench.records.entry import Entry
from bench.records.record import Metric
from bench.statistics import mean_interval
from bench.types import Batch, Point

OpenMeter = Callable[[torch.device], EnergyMeter]
OpenCounter = Callable[[], CpuEnergy]
FAKE = "measured with a fake device"
MODULE_ONLY = "only the whole module's energy can be read (scope=module)"


def measure_energy(
    subject: Subject,
    baseline: nn.Module,
    inputs: Inputs,
    point: Point,
    open_meter: OpenMeter = EnergyMeter,
    open_counter: OpenCounter = CpuEnergy,
) -> Part:
    """Energy metrics at `point`, which is set; conditions and windows as diagnostics.

    A refusal is a missing metric with the case's name and never ends the trial.
    """
    with evaluation_mode(subject.model, baseline):
        gpu, conditions = _gpu_metrics(subject, baseline, inputs, open_meter)
        cpu = _cpu_metrics(subject, subject.model, inputs, open_counter)
    return Part(
        {**gpu, **cpu},
        diagnostics={"energy": [{"point": dict(point), **conditions}]},
    )


def without_energy(subject: Subject) -> Part:
    """The energy of an operating point that is not measured, missing with the reason."""
    reason = f"measure={subject.config.profile} measures energy at the default operating point only"
    return Part(_without_gpu(reason))


def measure_alone(
    subject: Subject,
    model: nn.Module,
    inputs: Inputs,
    open_meter: OpenMeter = EnergyMeter,
    open_counter: OpenCounter = CpuEnergy,
) -> Metrics:
    """Energy per sample of the GPU and of the CPU for `model`, gross and net, beside no other."""
    size = inputs.largest
    with evaluation_mode(model):
        cpu = _cpu_metrics(subject, model, inputs, open_counter)
        try:
            with open_meter(subject.device) as meter:
                passes = Passes(model, inputs.by_size[size])
                repeats = repeat(meter, passes, subject.config.energy_window_s)
        except EnergyRefused as refusal:
            return {ENERGY.at(): missing_metric(ENERGY, refusal.reason), **cpu}
    doubt = FAKE if repeats.readings[0].device == "fake" else repeats.reason
    num_samples = inputs.num_issued(size)
    joules = repeats.interval.map(lambda each: each / num_samples)
    net_j = _mean([each.net_j_per_pass for each in repeats.readings]) / num_samples
    return {
        ENERGY.at(): joule_metric(ENERGY, joules, doubt),
        NET_ENERGY.at(): net_metric(NET_ENERGY, net_j, doubt),
        **cpu,
    }


class Passes:
    """Whole passes over batches, each from another batch on: load and sensor share no phase."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, list(batches)
        self._random = random.Random(0)  # its own: the model's random numbers stay as they are

    def __call__(self) -> None:
        # A pass that always began alike could beat with the sensor's update period.
        first = self._random.randrange(len(self.batches))
        for batch in self.batches[first:] + self.batches[:first]:
            self.model(batch)


def _gpu_metrics(
    subject: Subject, baseline: nn.Module, inputs: Inputs, open_meter: OpenMeter
) -> tuple[Metrics, dict[str, Any]]:
    """Metrics at the point that is set, and the conditions under which they were measured."""
    size = inputs.largest
    batches, seconds = inputs.by_size[size], subject.config.energy_window_s
    dense = subject.model if subject.is_dense else baseline  # dense against itself: the control
    conditions: dict[str, Any] = {}
    try:
        with open_meter(subject.device) as meter:
            conditions["device"] = meter.rig.board.device  # also of a measurement that fails later
            passes = (Passes(subject.model, batches), Passes(dense, batches))
            compared = compare_energy(meter, *passes, seconds)
            # Inside the block: facts are read from the open board.
            conditions |= {**meter.facts(), "batch_size": size, **_windows(compared)}
    except EnergyRefused as refusal:
        return _without_gpu(refusal.reason), {**conditions, "refused": refusal.reason}
    return _board_metrics(compared, inputs.num_issued(size)), conditions


def _board_metrics(compared: EnergyComparison, num_samples: int) -> Metrics:
    """Joules per sample and their ratio; those of a whole module under keys of their own."""
    readings = compared.candidate.readings
    # Before any other doubt: a simulated board must never enter a table.
    doubt = FAKE if readings[0].device == "fake" else compared.reason
    joules = compared.candidate.interval.map(lambda each: each / num_samples)
    net = _mean([each.net_j_per_pass for each in readings]) / num_samples
    ratios = [each.integral_ratio for each in readings if each.integral_ratio is not None]
    found: list[tuple[Entry, Metric]] = [
        (ENERGY, joule_metric(ENERGY, joules, doubt)),
        (NET_ENERGY, net_metric(NET_ENERGY, net, doubt)),  # above what the idle board draws
        (ENERGY_RATIO, interval_metric(ENERGY_RATIO, compared.ratio, doubt)),
        (MEAN_POWER, metric(MEAN_POWER, _mean([e.mean_power_w for e in readings]), doubt)),
        (IDLE_POWER, metric(IDLE_POWER, _mean([e.idle_w for e in readings]), doubt)),
        (
            COUNTER_RATIO,
            metric(COUNTER_RATIO, _mean(ratios), doubt)
            if ratios
            else missing_metric(COUNTER_RATIO, doubt or "power was not polled"),
        ),
    ]
    limit_w = readings[0].power_limit_w
    if limit_w is not None:  # a setting of the board, no measurement: never in doubt
        found.append((POWER_LIMIT, metric(POWER_LIMIT, limit_w)))
    if readings[0].scope == "module":
        # Never in the GPU's column: a module's joules contain those of its CPU and memory.
        return {**_without_gpu(MODULE_ONLY), **{module_key(entry): each for entry, each in found}}
    return {entry.at(): each for entry, each in found}


def _windows(compared: EnergyComparison) -> dict[str, Any]:
    """Every window in numbers, in the order of its model's."""
    both = {"candidate": compared.candidate, "baseline": compared.baseline}
    return {name: [_window(each) for each in repeats.readings] for name, repeats in both.items()}


def _window(reading: EnergyReading) -> dict[str, Any]:
    return {
        "gross_j": reading.gross_j,
        "idle_j": reading.idle_j,
        "window_s": reading.window_s,
        "num_passes": reading.num_passes,
        "num_phases": reading.num_phases,
        "uncertainty": reading.uncertainty,
        "chance": reading.chance,
        "lag": reading.lag,
        "apart": reading.apart,
        "polled": reading.polled,
        "integral_j": reading.integral_j,
        "temperature_c": list(reading.temperature_c),
        "sm_mhz": reading.state.sm_mhz if reading.state else None,
        "memory_mhz": reading.state.memory_mhz if reading.state else None,
        "events": list(reading.state.events) if reading.state else [],  # such as thermal slowdown
        "grade": reading.grade,  # what the window is long enough for
        "reason": reading.reason,
    }


def _cpu_metrics(
    subject: Subject, model: nn.Module, inputs: Inputs, open_counter: OpenCounter
) -> Metrics:
    """Joules of the CPU packages per sample of `model`, gross and net, or why there are none."""
    size = inputs.largest
    passes = Passes(model, inputs.by_size[size])

    def synchronised_pass() -> None:
        passes()
        # The packages also draw power while the host waits for the GPU.
        if subject.device.type == "cuda":
            torch.cuda.synchronize(subject.device)

    try:
        counter = open_counter()
        seconds = max(SHORTEST_S, subject.config.energy_window_s)
        readings = [counter.measure(synchronised_pass, seconds) for _ in range(WINDOWS)]
    except EnergyRefused as refusal:
        return {CPU_ENERGY.at(): missing_metric(CPU_ENERGY, refusal.reason)}
    doubt = next((each.reason for each in readings if each.reason), None)
    num_samples = inputs.num_issued(size)
    joules = mean_interval([each.j_per_pass for each in readings])
    net_j = _mean([each.net_j / each.num_passes for each in readings]) / num_samples
    return {
        CPU_ENERGY.at(): joule_metric(CPU_ENERGY, joules.map(lambda j: j / num_samples), doubt),
        CPU_NET_ENERGY.at(): net_metric(CPU_NET_ENERGY, net_j, doubt),
    }


def _without_gpu(reason: str) -> Metrics:
    """The two columns of a table, missing; further figures exist only beside them."""
    return {entry.at(): missing_metric(entry, reason) for entry in (ENERGY, ENERGY_RATIO)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
