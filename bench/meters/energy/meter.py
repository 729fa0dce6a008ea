"""`EnergyMeter(device).measure(step, seconds)`: joules of a GPU board while whole passes run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import torch

from bench.meters.energy.board import Device
from bench.meters.energy.calibration import Calibration, Step, calibrate, heat_up, launch_for
from bench.meters.energy.reading import EnergyReading
from bench.meters.energy.rig import Rig, open_rig
from bench.meters.energy.window import Window, refuse_if_short
from bench.meters.guard import refuse_if_watched

IDLE_WINDOWS = 2.0  # length of the idle measurement, in windows: its error weighs less then


class EnergyMeter:
    """Reads one board's energy counter, between its updates, and checks it against its power.

        with EnergyMeter(torch.device("cuda")) as meter:
            reading = meter.measure(step, seconds=10)

    Calibrates itself at the first measurement. Without a reading it raises a subclass of
    `EnergyRefused`; a reading that exists but is doubtful has `valid` False and a `reason`.
    """

    def __init__(self, device: Device, rig: Rig | None = None) -> None:
        """`device`: a CUDA device or its name; a UUID, or a `rig`, is for tests (device="fake").

        Raises EnergyUnsupported where the device has no readable counter.
        """
        self._stack = ExitStack()
        # Any other string is a UUID, which torch.device would reject.
        if isinstance(device, str) and device.partition(":")[0] in ("cuda", "cpu"):
            device = torch.device(device)
        self.rig = rig or self._stack.enter_context(open_rig(device))
        self._calibration: Calibration | None = None
        self.is_warm: bool | None = None  # temperature settled; None without a thermometer or heat

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release NVML."""
        self._stack.close()

    def calibrate(self, idle_s: float, step: Step | None = None) -> Calibration:
        """Measure update period and idle power now; later measurements use them.

        `step` also gives the period under load. Raises as `calibrate` in `calibration` does.
        """
        self._calibration = calibrate(self.rig, idle_s, step)
        return self._calibration

    def heat_up(self, step: Step, seconds: float) -> None:
        """Run `step` until the temperature has settled, at most 60 s."""
        self.is_warm = heat_up(self.rig, step, seconds)

    def measure(self, step: Step, seconds: float, pause_s: float | None = None) -> EnergyReading:
        """Energy of whole passes of `step` for `seconds`, between two updates of the counter.

        Use at least 5 s to develop, 10 s to publish. The work begins at a random moment of the
        counter's period, so that it shares no phase with the sensor; or `pause_s` after an update,
        to replay a recorded window.

        Raises WindowTooShort where fewer than 20 updates fit, CounterStuck, CounterReset,
        NotExclusive, DriverFailed, and MeterStateError under a profiler or dispatch mode.
        Exceptions of `step` pass through.
        """
        refuse_if_watched("energy")
        known = self.calibration(seconds, step)
        refuse_if_short(seconds, known)  # before the work, which may take a minute
        window = Window(self.rig, known)
        window.begin(self.pause_s() if pause_s is None else pause_s)
        try:
            num_passes = launch_for(self.rig, step, seconds)
            window.record_state()
        except BaseException:  # KeyboardInterrupt too: the polling thread must end
            window.stop()
            raise
        return window.end(num_passes)

    def pause_s(self) -> float:
        """A random part of the counter's period. Raises as `calibrate` does."""
        return self.rig.rng.uniform(0, self.calibration(1.0).update_period_s)

    def span(self, poll_s: float) -> Window:
        """A window around work of unknown length, such as a training; see `Window`.

        `poll_s`: seconds between samples of the power. Idle power is measured for 2 s if the meter
        was not calibrated before.
        """
        return Window(self.rig, self.calibration(1.0), poll_s)

    def calibration(self, seconds: float, step: Step | None = None) -> Calibration:
        """The calibration; made now if there is none yet, for windows of `seconds`."""
        return self._calibration or self.calibrate(IDLE_WINDOWS * seconds, step)

    def facts(self) -> dict[str, Any]:
        """Board, driver and calibration, as a record keeps them beside its joules."""
        facts = self.rig.board.facts()
        if self._calibration is not None:
            facts |= {
                "update_period_s": self._calibration.update_period_s,
                "idle_period_s": self._calibration.idle_period_s,
                "loaded_period_s": self._calibration.loaded_period_s,
                "resolution_mj": self._calibration.resolution_mj,
                "idle_w": self._calibration.idle_w,
                "temperature_settled": self.is_warm,
            }
        return facts
