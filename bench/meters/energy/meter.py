"""`EnergyMeter(device).measure(step, seconds)`: joules of a GPU board while whole passes run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch

from bench.meters.energy.board import Device
from bench.meters.energy.calibration import Calibration, Step, calibrate, heat_up, launch_for
from bench.meters.energy.reading import EnergyReading
from bench.meters.energy.rig import Rig, open_rig
from bench.meters.energy.window import Window, refuse_if_short
from bench.meters.guard import refuse_if_watched

# Phases of the counter's period, in one window: one in each eighth, and their eightfold is again
# one in each eighth, so that a load in step with a part of the period cannot meet all alike.
PHASES = tuple(k / 64 for k in (0, 11, 22, 31, 36, 45, 49, 58))
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
        self._settled_w: float | None = None  # of the board after the last window
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

    def measure(
        self, step: Step, seconds: float, pauses_s: Sequence[float] | None = None
    ) -> EnergyReading:
        """Energy of whole passes of `step` for `seconds`, between two updates of the counter.

        Use at least 5 s to develop, 10 s to publish. The work is cut into stretches, each begun at
        another phase of the counter's period, so that it shares no phase with the sensor; or each
        `pauses_s` after an update, to replay a recorded window.

        Raises WindowTooShort where fewer than 20 updates fit, CounterStuck, CounterReset,
        CounterLags, NoEnergy, NotExclusive, DriverFailed, and MeterStateError under a profiler or
        dispatch mode. Exceptions of `step` pass through.
        """
        refuse_if_watched("energy")
        known = self.calibration(seconds, step)
        refuse_if_short(seconds, known)  # before the work, which may take a minute
        pauses_s = self.pauses_s() if pauses_s is None else pauses_s
        window = Window(self.rig, known, idle_w=self._settled_w)
        window.begin(pauses_s[0])
        try:
            num_passes = self._launch(window, step, seconds, pauses_s)
        except BaseException:  # KeyboardInterrupt too: the polling thread must end
            window.stop()
            raise
        reading = window.end(num_passes)
        self._settled_w = reading.settled_w
        return reading

    def _launch(self, window: Window, step: Step, seconds: float, pauses_s: Sequence[float]) -> int:
        """Launch passes until they have worked for `seconds`; their number."""
        clock, worked_s, num_passes = self.rig.clock, 0.0, 0
        for number, pause_s in enumerate(pauses_s):
            # Long passes leave less to the later stretches, down to none.
            left_s, left = seconds - worked_s, len(pauses_s) - number
            if left_s <= 0:
                break
            if number:
                window.rest(pause_s)
            begun_s = clock.now_s()
            num_passes += launch_for(self.rig, step, left_s / left)
            worked_s += clock.now_s() - begun_s
        return num_passes

    def pauses_s(self) -> list[float]:
        """Pauses after an update, one for each phase, from a random one on and in random order."""
        period_s, rng = self.calibration(1.0).update_period_s, self.rig.rng
        first = rng.random()
        phases = [(first + phase) % 1.0 for phase in PHASES]
        rng.shuffle(phases)
        return [phase * period_s for phase in phases]

    def span(self, poll_s: float) -> Window:
        """A window around work of unknown length, such as a training; see `Window`.

        `poll_s`: seconds between samples of the power. Idle power is measured for 2 s if the meter
        was not calibrated before.
        """
        return Window(self.rig, self.calibration(1.0), poll_s, self._settled_w)

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
