"""Several windows per method, in turn with the dense baseline's, and the ratio of their energies.

The work of each window starts at a random moment of the counter's period (`EnergyMeter.measure`).
Some sensors sample only part of the time (Yang et al., SC'24): a load of the same period would
otherwise be misread in the same way in every window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from bench.meters.energy.calibration import Step
from bench.meters.energy.meter import EnergyMeter
from bench.meters.energy.reading import SENSOR, EnergyReading
from bench.statistics import LEVEL, Interval, mean_interval

WINDOWS = 5  # per model: below, Student's t widens the interval quickly


@dataclass
class Repeats:
    """The windows of one model, in order."""

    readings: list[EnergyReading] = field(default_factory=list)

    @property
    def j_per_pass(self) -> np.ndarray:
        """Gross joules of a pass in each window [n]."""
        return np.array([reading.j_per_pass for reading in self.readings])

    @property
    def reason(self) -> str | None:
        """The first reason against a window: one invalid window makes the whole invalid."""
        return next((each.reason for each in self.readings if each.reason), None)

    @property
    def uncertainty(self) -> float:
        """Relative, 95 %, of the mean: of repetition and of the windows, not of the sensor."""
        repeats = mean_interval(self.j_per_pass)
        spread = 0.0
        if repeats.value is not None and repeats.high is not None:
            spread = repeats.high / repeats.value - 1
        return math.hypot(spread, self.chance) + self.lag + abs(self.apart) + self.polled

    @property
    def chance(self) -> float:
        """Of the windows: independent, so that it shrinks with the root of their number."""
        return max(reading.chance for reading in self.readings) / math.sqrt(len(self.readings))

    @property
    def lag(self) -> float:
        """Alike in every window: no repetition makes it smaller."""
        return max(reading.lag for reading in self.readings)

    @property
    def apart(self) -> float:
        """Counter less power, the mean over windows."""
        return float(np.mean([reading.apart for reading in self.readings]))

    @property
    def polled(self) -> float:
        """Independent in every window, as `chance` is."""
        return max(reading.polled for reading in self.readings) / math.sqrt(len(self.readings))

    @property
    def interval(self) -> Interval:
        """Mean joules of a pass; its bounds include the sensor's assumed 5 %."""
        mean = float(self.j_per_pass.mean())
        half = mean * math.hypot(self.uncertainty, SENSOR)
        return Interval(mean, mean - half, mean + half, len(self.readings), "root sum of squares")


@dataclass
class EnergyComparison:
    """A candidate's windows beside the baseline's."""

    candidate: Repeats = field(default_factory=Repeats)
    baseline: Repeats = field(default_factory=Repeats)

    @property
    def reason(self) -> str | None:
        """The reason why the ratio is invalid; None if it is valid."""
        # A chip's joules and a module's, with its CPU and memory, are different quantities.
        scopes = {each.scope for each in (*self.candidate.readings, *self.baseline.readings)}
        if len(scopes) > 1:
            return f"power of different scopes: {', '.join(sorted(scopes))}"
        return self.candidate.reason or self.baseline.reason

    @property
    def ratio(self) -> Interval:
        """Baseline joules / candidate joules of a pass: above 1 the candidate draws less.

        Student's t over the logarithms of neighbouring windows, widened by the windows' own
        uncertainty. Both use one sensor: its 5 % cancels, and so does what both lack by its lag, or
        have in common in disagreeing with the power.
        """
        ours, theirs = self.candidate, self.baseline
        logs = np.log(theirs.j_per_pass / ours.j_per_pass)
        mean, num = float(logs.mean()), len(logs)
        if num < 2:
            return Interval(math.exp(mean), None, None, num, "none", "one window has no interval")
        # Half a width by repetition; independent parts add in squares.
        spread = float(logs.std(ddof=1)) / math.sqrt(num) * stats.t.ppf((1 + LEVEL) / 2, num - 1)
        chance = math.hypot(ours.chance, theirs.chance, ours.polled, theirs.polled)
        common = abs(ours.lag - theirs.lag) + abs(ours.apart - theirs.apart)
        half = math.hypot(spread, chance) + common
        return Interval(mean, mean - half, mean + half, num, "student t").map(math.exp)


def repeat(meter: EnergyMeter, candidate: Step, seconds: float, windows: int = WINDOWS) -> Repeats:
    """`windows` readings of one model, at random moments. Raises as `EnergyMeter.measure` does."""
    meter.heat_up(candidate, seconds)
    return Repeats([meter.measure(candidate, seconds) for _ in range(windows)])


def compare_energy(
    meter: EnergyMeter, candidate: Step, baseline: Step, seconds: float, windows: int = WINDOWS
) -> EnergyComparison:
    """Windows of both models in turn: AB, BA, AB, ... Raises as `EnergyMeter.measure` does.

    `candidate` and `baseline` are passes over the same samples. Both of them heat the board up.
    """

    def both() -> None:
        candidate()
        baseline()

    # Calibrated with both, so that the update period under load is not that of one model.
    meter.calibration(seconds, both)
    meter.heat_up(both, seconds)
    found = EnergyComparison()
    for number in range(windows):
        order = ((found.candidate, candidate), (found.baseline, baseline))
        for repeats, step in order if number % 2 == 0 else reversed(order):
            repeats.readings.append(meter.measure(step, seconds))
    return found
