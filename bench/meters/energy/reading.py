"""The result of one energy window: joules, uncertainty, plausibility."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bench.meters.energy.polling import Sample
from bench.meters.energy.refusals import IMPLAUSIBLE, INCONSISTENT, UNCERTAIN, UNCHECKED
from bench.meters.time.clocks import DeviceState

SENSOR = 0.05  # relative, assumed: no vendor documents it for the counters of today's boards
CONSISTENT = 0.05  # largest deviation from 1 of counter / integrated power, polling apart
BELOW_IDLE = 0.8  # idle power drifts with temperature
ABOVE_LIMIT = 1.05
LARGEST = 0.1  # uncertainty of a valid reading
SLACK = 0.98  # the calibrated period is itself measured
GRADES = ((10.0, 100, "publish"), (5.0, 50, "develop"))  # seconds, updates, fit for


@dataclass(frozen=True)
class EnergyReading:
    """Energy of the board while whole passes ran. Joules are those of the window, not per pass.

    `valid` False keeps the numbers with the `reason` why they must not be shown.
    """

    gross_j: float  # everything that the board drew from the first pass to the last
    idle_j: float  # the part that the idle board would have drawn in the same time
    window_s: float
    num_passes: int  # 0: not counted, a span around work of unknown length
    update_period_s: float
    rest_j: float  # the part of `gross_j` drawn in the rests between stretches of work
    rest_s: float  # their seconds
    # Parts of the uncertainty, relative, 95 %; the sensor's gain is none of them.
    chance: float  # of updates, counter's steps, idle power and phases: differs between windows
    lag: float  # of what arrives after the work: too little is read, alike in every window
    apart: float  # counter less power, signed: either may be wrong; 0 where scatter explains it
    polled: float  # of integrating power that swings between two readings of it
    integral_j: float | None  # instantaneous power integrated over the window: the cross-check
    power_limit_w: float | None
    device: str  # cuda or fake
    scope: str  # gpu, or module: never compared with each other
    temperature_c: tuple[int | None, int | None] = (None, None)  # before and after
    state: DeviceState | None = None  # at the end
    is_checked: bool = True  # by other phases, or by power that is not the counter's own sample
    num_phases: int = 1  # stretches of work, each begun at another phase of the counter's period
    settled_w: float | None = None  # watts of the board when it had settled after the work
    trace: tuple[Sample, ...] = field(default=(), repr=False)

    @property
    def uncertainty(self) -> float:
        """Relative, 95 %, of `work_j` as this sensor shows it, its gain left out."""
        return self.chance + self.lag + abs(self.apart) + self.polled

    @property
    def net_j(self) -> float:
        """Gross energy less the idle board's."""
        return self.gross_j - self.idle_j

    @property
    def work_j(self) -> float:
        """Gross joules of the passes alone, without the rests between them."""
        return self.gross_j - self.rest_j

    @property
    def work_s(self) -> float:
        """Seconds of the passes alone."""
        return self.window_s - self.rest_s

    @property
    def j_per_pass(self) -> float:
        """Gross joules of one pass. Raises ZeroDivisionError for a span."""
        return self.work_j / self.num_passes

    @property
    def net_j_per_pass(self) -> float:
        """Joules of one pass above the idle board's. Raises ZeroDivisionError for a span."""
        return (self.work_j - self.idle_w * self.work_s) / self.num_passes

    @property
    def mean_power_w(self) -> float:
        """Watts while passes ran."""
        return self.work_j / self.work_s

    @property
    def idle_w(self) -> float:
        """Watts of the idle board."""
        return self.idle_j / self.window_s

    @property
    def integral_ratio(self) -> float | None:
        """Counter over integrated power; None where power could not be polled often enough."""
        return self.gross_j / self.integral_j if self.integral_j else None

    @property
    def absolute_uncertainty(self) -> float:
        """Relative, 95 %, with the sensor's assumed 5 %, which cancels in ratios on one board."""
        return math.hypot(self.uncertainty, SENSOR)

    @property
    def grade(self) -> str:
        """The use that the window is long enough for: publish, develop or look."""
        for seconds, updates, grade in GRADES:
            if self.window_s >= SLACK * max(seconds, updates * self.update_period_s):
                return grade
        return "look"

    @property
    def reason(self) -> str | None:
        """The reason why the numbers are invalid; None if they are valid."""
        limit_w = math.inf if self.power_limit_w is None else self.power_limit_w * ABOVE_LIMIT
        if not self.idle_w * BELOW_IDLE <= self.mean_power_w <= limit_w:
            return (
                f"{IMPLAUSIBLE}: a mean power of {self.mean_power_w:.4g} W, the idle board draws "
                f"{self.idle_w:.4g} W and its limit is {self.power_limit_w} W"
            )
        if self.integral_ratio is None:
            return f"{INCONSISTENT}: power was polled too seldom to check the counter"
        if abs(self.integral_ratio - 1) > CONSISTENT + self.polled:
            return (
                f"{INCONSISTENT}: the counter is {self.integral_ratio:.3f} times "
                "the integrated power"
            )
        if not self.is_checked:
            return (
                f"{UNCHECKED}: power was not seen to change between updates of the counter, so "
                "that both may be one sample, and work in step with it would be missed"
            )
        if not self.uncertainty <= LARGEST:
            return f"{UNCERTAIN}: by {self.uncertainty:.1%} in {self.num_phases} phase(s)"
        return None

    @property
    def valid(self) -> bool:
        """Whether the numbers may be shown."""
        return self.reason is None
