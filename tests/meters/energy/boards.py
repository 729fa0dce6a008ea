"""Simulated boards whose sensors are late, averaged, seldom or out of step, and loads for them.

A board's true energy is known: `measure(board, load, seconds)` returns a reading and the truth.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bench.measure.energy.training import POLL_S
from bench.meters.energy import EnergyMeter, EnergyReading
from tests.fakes.nvml import FakeGpu

Step = Callable[[], None]
Load = Callable[["Board"], Step]
AVERAGED = 16  # points of a counter's mean


class Board(FakeGpu):
    """A `FakeGpu` with further faults of its counter and its power reading."""

    lag_s = 0.0  # the counter shows the energy of so long ago
    power_lag_s = 0.0  # and the power reading the power
    mean_s = 0.0  # the power reading is the mean of so long
    counter_mean_s = 0.0  # the counter is the mean of itself over so long
    is_sampled = False  # the counter adds the power at its updates times its period
    is_held = False  # the power reading changes with the counter's updates only
    jitter = 0.0  # of the updates' times, in periods
    after_w = 0.0  # above idle, right after work; it falls within `after_s`
    after_s = 3.0

    def __init__(self, **settings: Any) -> None:
        self._taus = [0.0]  # one for each change of power
        super().__init__(**settings)

    def set_power(self, target_w: float) -> None:
        now, tau_s = self.clock.now, self.tau_s
        before_j, start_w = self.joules(now), self.watts(now)
        if self.after_w and target_w == self.idle_w:
            start_w, tau_s = self.idle_w + self.after_w, self.after_s
        self.changes.append((now, start_w, target_w, before_j))
        self.times.append(now)
        self._taus.append(tau_s)

    def watts(self, time_s: float) -> float:
        (begun, start_w, target_w, _), tau_s = self._change(time_s)
        if tau_s == 0:
            return target_w
        return target_w + (start_w - target_w) * math.exp(-(time_s - begun) / tau_s)

    def joules(self, time_s: float) -> float:
        (begun, start_w, target_w, before_j), tau_s = self._change(time_s)
        past_s = time_s - begun
        fallen_s = tau_s * (1 - math.exp(-past_s / tau_s)) if tau_s else 0.0
        return before_j + target_w * past_s + (start_w - target_w) * fallen_s

    def _change(self, time_s: float) -> tuple[tuple[float, float, float, float], float]:
        number = max(0, bisect_right(self.times, time_s) - 1)
        return self.changes[number], self._taus[number]

    def counter_mj(self) -> int:
        updates = self._updates(min(self.clock.now, self.stuck_at_s))
        if self.is_sampled:
            joules = self._sampled_j(updates)
        elif self.part_s:
            joules = self._seen_j(updates)
        else:
            joules = self._mean_j(self._updated_s(updates) - self.lag_s)
        if self.clock.now >= self.resets_at_s:
            joules -= 1e6
        return int((5e6 + joules * self.gain) * 1e3) // self.quantum_mj * self.quantum_mj

    def _updated_s(self, number: int) -> float:
        late = self.jitter * ((number * 7919 + self.seed) % 101) / 101
        return max(self.begun_s, self.begun_s + self.phase_s + (number + late) * self.update_s)

    def _updates(self, time_s: float) -> int:
        number = math.floor((time_s - self.begun_s - self.phase_s) / self.update_s + 1e-9)
        is_due = not self.jitter or self._updated_s(number) <= time_s
        return number if is_due else number - 1

    def _mean_j(self, time_s: float) -> float:
        if not self.counter_mean_s:
            return self.joules(time_s)
        parts = ((k + 0.5) / AVERAGED for k in range(AVERAGED))
        return sum(self.joules(time_s - self.counter_mean_s * part) for part in parts) / AVERAGED

    def _sampled_j(self, updates: int) -> float:
        while len(self._seen) <= updates:
            watts = self.watts(self._updated_s(len(self._seen)) - self.lag_s)
            self._seen.append(self._seen[-1] + watts * self.update_s)
        return self._seen[max(0, updates)]

    def _power_w(self) -> float:
        time_s, noise = self.clock.now, self.random
        if self.is_held:
            updates = self._updates(time_s)
            # Every read of one update shows the same, its noise included.
            time_s, noise = self._updated_s(updates), random.Random(updates * 31 + self.seed)
        time_s -= self.power_lag_s
        watts = self.watts(time_s)
        if self.mean_s:
            watts = self.true_j(time_s - self.mean_s, time_s) / self.mean_s
        return watts + noise.gauss(0, self.noise_w)


def steady(pass_s: float = 0.013) -> Load:
    """Passes without a pause."""
    return lambda board: board.work(pass_s)


def square(period_s: float, duty: float = 0.5) -> Load:
    """A pass is one period: `duty` of it busy, then idle."""

    def load(board: Board) -> Step:
        work = board.work(period_s * duty)

        def step() -> None:
            work()
            board.clock.sleep(period_s * (1 - duty))

        return step

    return load


def irregular(period_s: float, duty: float = 0.5, by: float = 0.1) -> Load:
    """As `square`, with periods that vary: the steps of a training."""

    def load(board: Board) -> Step:
        vary = random.Random(board.seed)

        def step() -> None:
            this_s = period_s * vary.uniform(1 - by, 1 + by)
            board.work(this_s * duty)()
            board.clock.sleep(this_s * (1 - duty))

        return step

    return load


def on_a_grid(period_s: float) -> Load:
    """A square wave in step with the counter's own clock, whenever a pass is started."""

    def load(board: Board) -> Step:
        work = board.work(period_s / 2)

        def step() -> None:
            board.clock.sleep(period_s - (board.clock.now - board.begun_s) % period_s)
            work()

        return step

    return load


def in_steps(*parts: tuple[float, float]) -> Load:
    """A pass of several powers: (seconds, watts) each."""

    def load(board: Board) -> Step:
        def step() -> None:
            for seconds, watts in parts:
                board.set_power(watts)
                board.clock.sleep(seconds)
            board.set_power(board.idle_w)

        return step

    return load


class Truth:
    """Launches that note when work began and ended: the true joules of the work, and of all."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.reset()

    def reset(self) -> None:
        self.work_j = 0.0
        self._begun_s: float | None = None
        self.first_s: float | None = None
        self.last_s = 0.0

    def bound(self) -> None: ...

    def drain(self) -> None:
        if self._begun_s is not None:
            self.work_j += self.board.true_j(self._begun_s, self.last_s)
        self._begun_s = None

    @property
    def gross_j(self) -> float:
        """From the first pass to the last, rests included."""
        assert self.first_s is not None
        return self.board.true_j(self.first_s, self.last_s)

    def watch(self, step: Step) -> Step:
        """`step`, whose passes count."""

        def watched() -> None:
            now = self.board.clock.now
            self._begun_s = now if self._begun_s is None else self._begun_s
            self.first_s = now if self.first_s is None else self.first_s
            step()
            self.last_s = self.board.clock.now

        return watched


class Bench:
    """A board with a calibrated meter, to take several readings of several loads."""

    def __init__(self, **settings: Any) -> None:
        self.board = Board(**settings)
        self.truth = Truth(self.board)
        rig = replace(self.board.rig("fake"), launches=self.truth)
        self.meter = EnergyMeter("fake", rig)
        self.meter.calibrate(1.0, self.board.work(0.013))

    def measure(self, load: Load, seconds: float) -> EnergyReading:
        """A reading; `truth` then has the true joules of its work."""
        self.truth.reset()
        return self.meter.measure(self.truth.watch(load(self.board)), seconds)

    def span(self, load: Load, seconds: float) -> EnergyReading:
        """A reading of one stretch of work, as of a training."""
        self.truth.reset()
        step, window = self.truth.watch(load(self.board)), self.meter.span(POLL_S)
        window.begin()
        end_s = self.board.clock.now + seconds
        while self.board.clock.now < end_s:
            step()
        return window.end()


def is_within(reading: EnergyReading, truth: Truth, slack: float = 2e-4) -> bool:
    """Whether work and whole window lie inside the stated interval.

    `slack`: relative, of the simulation: the meter's queries take time in which the board idles.
    """
    reach = reading.uncertainty + slack
    return all(
        abs(found_j - true_j) <= reach * true_j
        for found_j, true_j in ((reading.work_j, truth.work_j), (reading.gross_j, truth.gross_j))
    )


SENSORS: dict[str, dict[str, Any]] = {
    "exact": {},
    "noise of 1 %": {"noise_w": 5.0},
    "25 % of each period": {"part_s": 0.25},  # in periods, as `sensor` scales it
    "one moment of each period": {"is_sampled": True},
    "the same, power held": {"is_sampled": True, "is_held": True},
    "power held": {"is_held": True, "noise_w": 5.0},
    "counter 0.05 s late": {"lag_s": 0.05},
    "counter 0.1 s late": {"lag_s": 0.1},
    "counter 0.3 s late": {"lag_s": 0.3},
    "counter and power 0.1 s late": {"lag_s": 0.1, "power_lag_s": 0.1, "noise_w": 5.0},
    "power a mean of 1 s": {"mean_s": 1.0},
    "counter a mean of 0.5 s": {"counter_mean_s": 0.5},
    "both means of 1 s": {"counter_mean_s": 1.0, "mean_s": 1.0},
    "irregular updates": {"jitter": 0.4, "noise_w": 5.0},
    "steps of 1 J": {"quantum_mj": 1000},
    "power falls in 20 ms": {"tau_s": 0.02},
    "power falls in 100 ms": {"tau_s": 0.1},
    "40 W more after work": {"after_w": 40.0},
}


def sensor(name: str, update_s: float) -> dict[str, Any]:
    """Settings of a board with this sensor."""
    settings = {**SENSORS[name], "update_s": update_s}
    if "part_s" in settings:
        settings["part_s"] *= update_s
    return settings


def loads(update_s: float) -> dict[str, Load]:
    """Loads by name: of fixed periods, and of periods near a rational part of the counter's."""
    fixed: Sequence[float] = (0.007, 0.02, 0.037, 0.05, 0.1, 0.25, 0.5, 1.0)
    near = {"1/6 T": 1 / 6, "1/2 T": 0.5, "0.83 T": 0.83, "T": 1.0, "1.03 T": 1.03, "2.1 T": 2.1}
    found = {"steady": steady(), "long passes": steady(0.31)}
    found |= {f"square {1e3 * period_s:.0f} ms": square(period_s) for period_s in fixed}
    found |= {f"square {name}": square(part * update_s) for name, part in near.items()}
    found |= {f"20 % of {name}": square(near[name] * update_s, 0.2) for name in ("T", "1.03 T")}
    found |= {
        "in step with T": on_a_grid(update_s),
        "irregular T": irregular(update_s),
        "irregular 0.3 T": irregular(0.3 * update_s, 0.7),
        "two powers": in_steps((0.05, 500.0), (0.08, 250.0)),
        "slow steps": in_steps((0.4, 500.0), (0.4, 200.0)),
    }
    return found
