"""A recorded board behind NVML's functions: its counter and power as they were at each moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from bench.meters.energy.meter import EnergyMeter
from bench.selftest.energy.traces import Trace
from tests.fakes.nvml import FakeGpu


class ReplayedGpu(FakeGpu):
    """Returns the latest sample of the trace, from the start of the recorded window on."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(latency_s=0.0005)
        self.trace, self.looks_s = trace, [sample.time_s for sample in trace.samples]
        self.clock.now = trace.begin_s

    def counter_mj(self) -> int:
        return self._latest().energy_mj

    def watts(self, time_s: float) -> float:
        return self._latest().power_w

    def _latest(self):
        return self.trace.samples[max(0, bisect_right(self.looks_s, self.clock.now) - 1)]

    def rest_of_work(self) -> Callable[[], None]:
        """One pass that ends when the recorded work ended."""
        return lambda: self.clock.sleep(max(0.001, self.trace.end_s - self.clock.now))

    def meter(self) -> EnergyMeter:
        """A meter with the calibration of the recording."""
        meter = EnergyMeter("fake", self.rig())
        meter._calibration = self.trace.calibration
        return meter
