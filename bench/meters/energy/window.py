"""One stretch of work between two updates of the counter.

    update t0 -> a pause -> work from t1 to t2 -> wait for the next update t3
    energy = C(t3) - C(t0) - power before the work x (t1 - t0) - power after it x (t3 - t2)

The pause is random (see `repeats`): work that always began right after an update would have a
fixed phase with the sensor. The work may be of any length: a fixed duration of passes, or a whole
training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.meters.energy.calibration import Calibration
from bench.meters.energy.edges import (
    Edge,
    longest_unchanged_s,
    refuse_backwards,
    wait_for_sharp_edge,
)
from bench.meters.energy.polling import Polling, Sample, integral_j
from bench.meters.energy.reading import SLACK, EnergyReading
from bench.meters.energy.refusals import CounterStuck, WindowTooShort
from bench.meters.energy.rig import Rig
from bench.meters.time.clocks import DeviceState

MIN_UPDATES = 20  # per window: an error of a tenth of a period at either end is then 1 %
COVERAGE = 2.0  # standard deviations for 95 %
SHORTEST_POLL_S = 0.02
TAIL_SAMPLES = 10  # samples of power per period, before and after the work


class Window:
    """`begin`, work, `end`; these two raise the subclasses of `EnergyRefused`."""

    def __init__(self, rig: Rig, calibration: Calibration, poll_s: float | None = None) -> None:
        """`poll_s`: seconds between samples of power; by default half a period, at least 20 ms."""
        self._rig, self._known = rig, calibration
        self._poll_s = poll_s or max(SHORTEST_POLL_S, calibration.update_period_s / 2)
        self._excluded: list[tuple[float, float]] = []  # begin and end of each probe
        self._polling: Polling | None = None
        self._state: DeviceState | None = None

    def begin(self, pause_s: float = 0.0) -> None:
        """Wait for idle and for an update of the counter, and then `pause_s` longer."""
        rig = self._rig
        rig.launches.drain()
        rig.board.refuse_if_shared()
        self._before_c = rig.board.temperature_c
        self._start = wait_for_sharp_edge(rig.board, rig.clock, self._known.update_period_s)
        self._head = self._sample_idle(pause_s)
        self._polling = rig.start_polling(self._poll_s)
        self.start_s = rig.clock.now_s()

    def record_state(self) -> None:
        """Record clocks and throttling now, while work is queued: afterwards the board idles."""
        self._state = self._rig.board.state

    def exclude(self, probe: Callable[..., Any]) -> Callable[..., Any]:
        """`probe`, such that its energy and time do not count in the window."""

        def run(*arguments: Any) -> Any:
            self._rig.launches.drain()  # training steps still queued belong to the window
            begun_s = self._rig.clock.now_s()
            try:
                return probe(*arguments)
            finally:
                self._rig.launches.drain()
                self._excluded.append((begun_s, self._rig.clock.now_s()))

        return run

    def end(self, num_passes: int = 0) -> EnergyReading:
        """Wait for the work and for the next update; return the reading."""
        rig = self._rig
        rig.launches.drain()
        end_s = rig.clock.now_s()
        samples = self.stop()
        edge, tail = self._tail()
        refuse_backwards(self._start.energy_mj, edge.energy_mj)
        rig.board.refuse_if_shared()  # again: a process may have come meanwhile
        window_s = end_s - self.start_s
        self._check(samples, window_s)
        # Between the updates and the work the board idled: that energy is subtracted.
        around_s = (self.start_s - self._start.time_s, edge.time_s - end_s)
        around_j = sum(_mean_w(t) * s for t, s in zip((self._head, tail), around_s, strict=True))
        counted_j = (edge.energy_mj - self._start.energy_mj) / 1e3 - around_j
        excluded_j, excluded_s = self._excluded_energy(samples)
        gross_j = counted_j - excluded_j
        integral = integral_j(samples, self.start_s, end_s)
        measured_s = window_s - excluded_s
        return EnergyReading(
            gross_j=gross_j,
            idle_j=self._known.idle_w * measured_s,
            window_s=measured_s,
            num_passes=num_passes,
            update_period_s=self._known.update_period_s,
            uncertainty=COVERAGE * self._deviation_j(edge, tail, around_s) / gross_j,
            integral_j=None if integral is None else integral - excluded_j,
            power_limit_w=rig.board.power_limit_w,
            device=rig.board.device,
            scope=rig.board.scope,
            temperature_c=(self._before_c, rig.board.temperature_c),
            state=self._state or rig.board.state,
            trace=tuple(samples),
        )

    def stop(self) -> list[Sample]:
        """End the polling; also to be called when the work itself failed."""
        polling, self._polling = self._polling, None
        return polling.stop() if polling is not None else []

    def _check(self, samples: list[Sample], window_s: float) -> None:
        refuse_if_short(window_s, self._known)
        unchanged_s = longest_unchanged_s(samples)
        # An update is noticed at the next poll: one interval is added to the limit.
        if unchanged_s > self._known.timeout_s + self._poll_s:
            raise CounterStuck(f"for {unchanged_s:.2g} s within the window")

    def _sample_idle(self, seconds: float) -> list[Sample]:
        """Power until `seconds` after the first update, without work."""
        rig, samples = self._rig, [self._rig.sample()]
        end_s = self._start.time_s + seconds
        while (left_s := end_s - rig.clock.now_s()) > 0:
            rig.clock.sleep(min(left_s, self._tail_interval_s))
            samples.append(rig.sample())
        return samples

    @property
    def _tail_interval_s(self) -> float:
        return self._known.update_period_s / TAIL_SAMPLES

    def _tail(self) -> tuple[Edge, list[Sample]]:
        """The update after the work, and the power until then."""
        rig, tail = self._rig, [self._rig.sample()]
        pause_s = self._tail_interval_s

        # Not at every read of the counter: querying power as well would make edges wider.
        def sample_power() -> None:
            if rig.clock.now_s() - tail[-1].time_s >= pause_s:
                tail.append(rig.sample())

        period_s = self._known.update_period_s
        return wait_for_sharp_edge(rig.board, rig.clock, period_s, sample_power), tail

    def _excluded_energy(self, samples: list[Sample]) -> tuple[float, float]:
        """Joules and seconds of the excluded probes; their energy is integrated power."""
        parts_j = [integral_j(samples, *between) or 0.0 for between in self._excluded]
        return sum(parts_j), sum(end_s - begin_s for begin_s, end_s in self._excluded)

    def _deviation_j(self, edge: Edge, tail: list[Sample], around_s: tuple[float, float]) -> float:
        """One standard deviation: times of the updates, the counter's steps, the idle powers."""
        idle = (self._head, tail)
        widths_s = [each.width_s for each in (self._start, edge)]
        # Uniform distributions of width w have a deviation of w / sqrt(12): each of the two updates
        # over its edge, each of the two counts over a step.
        edges_j = _mean_w(tail) * math.hypot(*widths_s) / math.sqrt(12)
        steps_j = self._known.resolution_mj / 1e3 / math.sqrt(6)
        # Scatter of the power around the two means, pooled: each has few samples.
        apart_w = np.concatenate([[s.power_w - _mean_w(each) for s in each] for each in idle])
        spread_w = math.sqrt(float((apart_w**2).sum()) / max(1, len(apart_w) - len(idle)))
        idle_j = [spread_w * s / math.sqrt(len(t)) for t, s in zip(idle, around_s, strict=True)]
        return math.hypot(edges_j, steps_j, *idle_j)


def _mean_w(samples: list[Sample]) -> float:
    return float(np.mean([sample.power_w for sample in samples]))


def refuse_if_short(seconds: float, known: Calibration) -> None:
    """Raise WindowTooShort where fewer than 20 updates fit into `seconds`."""
    least_s = MIN_UPDATES * known.update_period_s
    if seconds < SLACK * least_s:
        raise WindowTooShort(
            f"{seconds:.3g} s, and {MIN_UPDATES} updates of the counter take {least_s:.3g} s"
        )
