"""Energy of a whole training: of every board that it uses, and of the CPU packages.

Of several processes each reads its own board, on which it alone has a context; `metrics` sums them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from typing import Any, Self

import torch

from bench import ranks
from bench.measure.energy.inference import FAKE, MODULE_ONLY, OpenCounter, OpenMeter
from bench.measure.energy.joules import joule_metric, net_metric
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics
from bench.meters.energy import EnergyMeter, EnergyReading, EnergyRefused
from bench.meters.energy.rapl import CpuEnergy, CpuSpan
from bench.meters.energy.window import Window
from bench.records.catalogue import (
    TRAIN_CPU_ENERGY,
    TRAIN_ENERGY,
    TRAIN_IDLE_POWER,
    TRAIN_MEAN_POWER,
    TRAIN_NET_ENERGY,
)
from bench.records.record import Metric
from bench.statistics import Interval

POLL_S = 0.05  # seldom enough for a training of hours, often enough for the cross-check


class TrainingEnergy:
    """A context around the fit; `metrics` afterwards.

        with TrainingEnergy(devices) as energy:
            fit(..., probes={1: energy.leaving_out(probe)})
        energy.metrics()

    Boards are summed only if every one has a valid reading. A refusal never disturbs the training.
    """

    def __init__(
        self,
        devices: list[torch.device],
        open_meter: OpenMeter = EnergyMeter,
        open_counter: OpenCounter = CpuEnergy,
    ) -> None:
        self._devices, self._open_meter, self._open_counter = devices, open_meter, open_counter
        self._stack = ExitStack()
        self._windows: list[Window] = []
        self._readings: list[EnergyReading] = []
        self._cpu: CpuSpan | None = None
        self._refused = self._cpu_refused = ""

    def __enter__(self) -> Self:
        try:
            # All boards are opened before the first window begins: opening takes a while.
            for device in self._devices:
                meter = self._stack.enter_context(self._open_meter(device))
                self._windows.append(meter.span(POLL_S))
            for window in self._windows:
                window.begin()
            for window in self._windows:
                window.start_work()  # not before all of them are ready
        except EnergyRefused as refusal:
            self._give_up(refusal)
        # By itself: a machine without NVIDIA's driver may still have RAPL, and the reverse.
        try:
            self._cpu = self._stack.enter_context(CpuSpan(self._open_counter()))
        except EnergyRefused as refusal:
            self._cpu_refused = refusal.reason
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            if kind is None:  # a training that failed has no energy worth reading
                for window in self._windows:
                    window.stop_work()  # ending one takes a second, in which the others idle
                self._readings = [window.end() for window in self._windows]
        except EnergyRefused as refusal:
            self._refused = refusal.reason
        finally:
            self._stop()
            self._close()

    def leaving_out(self, probe: Callable[..., Any]) -> Callable[..., Any]:
        """`probe` without its energy in the boards' sum; the CPU's contains it."""
        # Nested: every window pauses while the probe runs, whichever board it works on.
        return reduce(lambda inner, window: window.exclude(inner), self._windows, probe)

    def metrics(self, untrained: str | None = None) -> Metrics:
        """`train/energy_j` and `train/cpu_energy_j`, or why one is missing.

        `untrained`: why there is nothing to report, if no step was taken.
        """
        if untrained:
            entries = (TRAIN_ENERGY, TRAIN_CPU_ENERGY)
            return {entry.at(): missing_metric(entry, untrained) for entry in entries}
        self._gather()
        total, of_cpu = self._boards(), self._packages()
        return {TRAIN_ENERGY.at(): total, TRAIN_CPU_ENERGY.at(): of_cpu, **self._details(total)}

    def _gather(self) -> None:
        """What every process read becomes this one's; without their traces, which may be long."""
        # Only process 0 writes a record, but a gather needs every process.
        mine = [replace(reading, trace=()) for reading in self._readings]
        shares = ranks.all_gather((mine, self._refused))
        self._readings = [reading for readings, _ in shares for reading in readings]
        self._refused = next((refused for _, refused in shares if refused), "")

    def _details(self, total: Metric) -> Metrics:
        """Net joules, and the boards' power together: while they trained, and idle before."""
        if total.value is None:
            return {}
        # Power adds up like energy, because all boards share the window of the training.
        values = {
            TRAIN_MEAN_POWER: [each.mean_power_w for each in self._readings],
            TRAIN_IDLE_POWER: [each.idle_w for each in self._readings],
        }
        doubt = total.reason
        net_j = sum(each.net_j for each in self._readings)
        powers = {entry.at(): metric(entry, sum(parts), doubt) for entry, parts in values.items()}
        return {TRAIN_NET_ENERGY.at(): net_metric(TRAIN_NET_ENERGY, net_j, doubt), **powers}

    def _packages(self) -> Metric:
        """Joules of the CPU packages."""
        if self._cpu is None or self._cpu_refused:
            return missing_metric(TRAIN_CPU_ENERGY, self._cpu_refused or "not measured")
        joules = Interval(self._cpu.gross_j, None, None, 1, "none", "one training")
        return joule_metric(TRAIN_CPU_ENERGY, joules, self._cpu.reason)

    def _boards(self) -> Metric:
        """Joules of all boards together; missing where one of them has no reading."""
        readings = self._readings
        if self._refused or not readings:
            return missing_metric(TRAIN_ENERGY, self._refused or "no NVIDIA GPU")
        if any(reading.scope == "module" for reading in readings):
            return missing_metric(TRAIN_ENERGY, MODULE_ONLY)
        total_j = sum(reading.gross_j for reading in readings)
        # The boards' sensors may err in the same direction, so their errors add up in full.
        half_j = sum(reading.gross_j * reading.absolute_uncertainty for reading in readings)
        doubt = next((reading.reason for reading in readings if reading.reason), None)
        if any(reading.device == "fake" for reading in readings):
            doubt = FAKE
        joules = Interval(total_j, total_j - half_j, total_j + half_j, len(readings), "sum")
        return joule_metric(TRAIN_ENERGY, joules, doubt)

    def _give_up(self, refusal: EnergyRefused) -> None:
        self._refused = refusal.reason
        self._stop()
        self._windows.clear()  # a sum without one board would be too low

    def _close(self) -> None:
        """Leave the boards and the CPU's counter, which may have vanished in the meantime."""
        try:
            self._stack.close()
        except EnergyRefused as refusal:
            self._cpu_refused = refusal.reason

    def _stop(self) -> None:
        """End the polling; the first failure is the reason, unless `end` found one before."""
        for window in self._windows:
            try:
                window.stop()
            except EnergyRefused as refusal:
                self._refused = self._refused or refusal.reason
