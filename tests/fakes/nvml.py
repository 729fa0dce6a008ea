"""A simulated GPU board behind NVML's functions, with a clock that advances only in sleep().

gpu = FakeGpu(idle_w=75, active_w=500, update_s=0.1)
rig = gpu.rig()                       what an EnergyMeter stands on
step = gpu.work(0.037)                a pass of 37 ms at active power
gpu.true_j(start_s, end_s)            what a perfect meter would read
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml

from bench.meters.energy.board import Board
from bench.meters.energy.launches import HostLaunches
from bench.meters.energy.polling import Sample
from bench.meters.energy.rig import Rig


class FakeClock:
    """Monotonic seconds that pass in `sleep`; due callbacks run on the way."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._num_due = 0

    def now_s(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, wake = heapq.heappop(self._due)
            wake()
        self.now = end

    def call_at(self, time_s: float, wake: Callable[[], None]) -> None:
        self._num_due += 1
        heapq.heappush(self._due, (time_s, self._num_due, wake))


class FakePolling:
    """Polls at simulated times, in between whatever advances the clock."""

    def __init__(self, gpu: FakeGpu, read: Callable[[], Sample], every_s: float) -> None:
        self.gpu, self.read, self.every_s = gpu, read, every_s
        self.samples: list[Sample] = []
        self.failure: Exception | None = None
        self.running = True
        self.wake()

    def wake(self) -> None:
        if not self.running:
            return
        latency_s, self.gpu.latency_s = self.gpu.latency_s, 0.0  # the other thread's time
        try:
            self.samples.append(self.read())
        except Exception as error:
            self.failure, self.running = error, False
        finally:
            self.gpu.latency_s = latency_s
        pause_s = self.every_s * self.gpu.random.uniform(0.5, 1.5)
        self.gpu.clock.call_at(self.gpu.clock.now + pause_s, self.wake)

    def stop(self) -> list[Sample]:
        self.running = False
        if self.failure is not None:
            raise self.failure
        return self.samples


class FakeGpu:
    """Power that relaxes to its target, integrated exactly; a counter that shows it now and then.

    `part_s`: the counter integrates only what it sees in the first `part_s` of each update period.
    `errors`: {NVML function or field number: NVML error code}, from `fails_at_s` on.
    """

    def __init__(self, **settings: Any) -> None:
        self.idle_w, self.active_w, self.update_s = 75.0, 500.0, 0.1
        self.tau_s = self.phase_s = self.latency_s = self.noise_w = 0.0
        self.latency_s, self.part_s, self.gain = 0.001, None, 1.0
        self.quantum_mj, self.limit_w, self.temperature_c = 1, 700.0, 40
        self.event_bits = 0
        self.scope, self.mig, self.utilisation = "gpu", 0, 0
        self.pids: list[int] = []
        self.errors: dict[Any, int] = {}
        self.stuck_at_s = self.resets_at_s = math.inf
        self.fails_at_s = 0.0  # when `errors` begin
        self.foreign_at_s = math.inf
        self.driver, self.seed = "fake", 0
        for name, value in settings.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        self.clock = FakeClock()
        self.random = random.Random(self.seed)
        self.begun_s = self.clock.now
        self._seen = [0.0]
        self.times = [self.clock.now]
        self.changes = [(self.clock.now, self.idle_w, self.idle_w, 0.0)]  # time, start, target, J

    # The board's physics

    def set_power(self, target_w: float) -> None:
        """From now on relax to `target_w`."""
        now = self.clock.now
        change = (now, self.watts(now), target_w, self.joules(now))
        self.changes.append(change)
        self.times.append(now)

    def watts(self, time_s: float) -> float:
        begun, start_w, target_w, _ = self._segment(time_s)
        if self.tau_s == 0:
            return target_w
        return target_w + (start_w - target_w) * math.exp(-(time_s - begun) / self.tau_s)

    def joules(self, time_s: float) -> float:
        begun, start_w, target_w, before_j = self._segment(time_s)
        past = time_s - begun
        if self.tau_s == 0:
            return before_j + target_w * past
        relaxed = self.tau_s * (1 - math.exp(-past / self.tau_s))
        return before_j + target_w * past + (start_w - target_w) * relaxed

    def true_j(self, start_s: float, end_s: float) -> float:
        return self.joules(end_s) - self.joules(start_s)

    def _segment(self, time_s: float) -> tuple[float, float, float, float]:
        return self.changes[max(0, bisect_right(self.times, time_s) - 1)]

    def counter_mj(self) -> int:
        """What the counter shows: the energy at its last update."""
        now = min(self.clock.now, self.stuck_at_s)
        updates = math.floor((now - self.begun_s - self.phase_s) / self.update_s)
        last_s = max(self.begun_s, self.begun_s + self.phase_s + updates * self.update_s)
        joules = self._seen_j(updates) if self.part_s else self.joules(last_s)
        if self.clock.now >= self.resets_at_s:
            joules -= 1e6
        return int((5e6 + joules * self.gain) * 1e3) // self.quantum_mj * self.quantum_mj

    def _seen_j(self, updates: int) -> float:
        """What the sensor has seen in so many periods, scaled to whole ones."""
        while len(self._seen) <= updates:
            start = self.begun_s + self.phase_s + (len(self._seen) - 1) * self.update_s
            seen_j = self.true_j(start, start + self.part_s) * self.update_s / self.part_s
            self._seen.append(self._seen[-1] + seen_j)
        return self._seen[max(0, updates)]

    # What uses the board

    def work(self, seconds: float, active_w: float | None = None) -> Callable[[], None]:
        """A pass that takes `seconds` at `active_w`."""

        def step() -> None:
            self.set_power(active_w or self.active_w)
            self.clock.sleep(seconds)
            self.set_power(self.idle_w)

        return step

    def rig(self, device: str = "fake") -> Rig:
        return Rig(
            board=Board(self.nvml(), 0, device),
            clock=self.clock,
            launches=HostLaunches(),
            poll=lambda read, every_s: FakePolling(self, read, every_s),
            rng=random.Random(self.seed),
        )

    # NVML

    def nvml(self) -> SimpleNamespace:
        """pynvml's constants, with this board's functions."""
        constants = {n: v for n, v in vars(pynvml).items() if not callable(v)}
        stand_in = SimpleNamespace(**constants, NVMLError=pynvml.NVMLError)
        answers = {
            "nvmlDeviceGetTotalEnergyConsumption": self.counter_mj,
            "nvmlDeviceGetPowerUsage": lambda: int(self._power_w() * 1e3),
            "nvmlDeviceGetTemperatureV": lambda sensor: self.temperature_c,
            "nvmlDeviceGetEnforcedPowerLimit": lambda: int(self.limit_w * 1e3),
            "nvmlDeviceGetMigMode": lambda: [self.mig, self.mig],
            "nvmlDeviceGetUtilizationRates": lambda: SimpleNamespace(gpu=self.utilisation),
            "nvmlDeviceGetComputeRunningProcesses": self._processes,
            "nvmlDeviceGetArchitecture": lambda: pynvml.NVML_DEVICE_ARCH_HOPPER,
            "nvmlDeviceGetFieldValues": self._fields,
            "nvmlDeviceGetName": lambda: "NVIDIA Fake",
            "nvmlDeviceGetUUID": lambda: "GPU-fake",
            "nvmlDeviceGetTemperature": lambda sensor: self.temperature_c,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda: self.event_bits,
        }
        for name, answer in answers.items():
            setattr(stand_in, name, self._function(name, answer))
        stand_in.nvmlSystemGetDriverVersion = lambda: self.driver
        return stand_in

    def _function(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(handle: int, *arguments: Any) -> Any:
            self.clock.sleep(self.latency_s * self.random.uniform(0.5, 1.5))
            if name in self.errors and self.clock.now >= self.fails_at_s:
                raise pynvml.NVMLError(self.errors[name])
            return answer(*arguments)

        return call

    def _power_w(self) -> float:
        return self.watts(self.clock.now) + self.random.gauss(0, self.noise_w)

    def _processes(self) -> list[SimpleNamespace]:
        foreign = [4242] if self.clock.now >= self.foreign_at_s else []
        return [SimpleNamespace(pid=pid) for pid in [*self.pids, *foreign]]

    def _fields(self, wanted: list[tuple[int, int]]) -> list[SimpleNamespace]:
        return [self._field(*each) for each in wanted]

    def _field(self, field: int, scope: int) -> SimpleNamespace:
        has_scope = scope == (0 if self.scope == "gpu" else 1)
        code = 0 if has_scope else pynvml.NVML_ERROR_NOT_SUPPORTED
        if self.clock.now >= self.fails_at_s:
            code = self.errors.get(field, code)
        value = SimpleNamespace(uiVal=int(self._power_w() * 1e3))
        return SimpleNamespace(fieldId=field, scopeId=scope, nvmlReturn=code, value=value)
