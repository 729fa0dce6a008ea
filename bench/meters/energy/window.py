"""A window of work between two updates of the counter, with rests in which the phase changes.

    settled update, pause, work, update, pause, work, ..., update, settled update

Work may be in step with a sensor that samples part of the time. Each stretch of work therefore
begins at another phase of the counter's period, and the scatter of the stretches shows what their
phase does. The work may be of any length: a fixed duration of passes, or a whole training, which
is one stretch and has nothing but the power readings to check its counter with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bench.meters.energy.balance import MIN_PHASES, Balance
from bench.meters.energy.calibration import Calibration
from bench.meters.energy.crosscheck import check_counter
from bench.meters.energy.edges import (
    Edge,
    longest_unchanged_s,
    refuse_backwards,
    wait_for_sharp_edge,
)
from bench.meters.energy.independence import is_shown_independent
from bench.meters.energy.polling import Polling, Sample, integral_j
from bench.meters.energy.reading import SLACK, EnergyReading
from bench.meters.energy.refusals import CounterLags, CounterStuck, NoEnergy, WindowTooShort
from bench.meters.energy.rest import Rest, mean_w
from bench.meters.energy.rig import Rig
from bench.meters.energy.settling import LOWERED, UNKNOWN_S, sampler, settle
from bench.meters.time.clocks import DeviceState

MIN_UPDATES = 20  # per window: an error of a tenth of a period at either end is then 1 %
SHORTEST_POLL_S = 0.01
POLLS = 10  # of power in a period, during the work
REST_POLLS = 10  # and without
STATE_S = 0.1  # between queries of the board's clocks
QUERY_S = 0.005  # the longest time that a query of the driver takes
DISTINCT = 1.5  # times the power before: only such work differs from the board at rest


class Window:
    """`begin`, work, `rest`, work, ..., `end`; all three raise subclasses of `EnergyRefused`."""

    def __init__(
        self,
        rig: Rig,
        calibration: Calibration,
        poll_s: float | None = None,
        idle_w: float | None = None,
    ) -> None:
        """`poll_s`: seconds between samples of power; by default a tenth of a period, at least
        10 ms. `idle_w`: what the board draws after work, where that is known to be more than idle.
        """
        self._rig, self._known = rig, calibration
        self._poll_s = poll_s or max(SHORTEST_POLL_S, calibration.update_period_s / POLLS)
        self._idle_w = max(calibration.idle_w, idle_w or 0.0)
        # What ran before the first window of a meter is unknown; later ones follow a settled board.
        self._least_s = UNKNOWN_S if idle_w is None else 0.0
        self._rests: list[Rest] = []
        self._settling: list[list[Sample]] = []  # power readings before and after the work
        self._excluded: list[tuple[float, float]] = []  # begin and end of each probe
        self._polling: Polling | None = None
        self._state: DeviceState | None = None
        self._stop_s: float | None = None
        self.start_s = 0.0  # of the work
        self._begun_s = math.inf  # when the present stretch began or its state was recorded last

    def begin(self, pause_s: float = 0.0) -> None:
        """Wait until the counter has settled, and then `pause_s` longer from its update on."""
        rig = self._rig
        rig.launches.drain()
        rig.board.refuse_if_shared()
        self._before_c = rig.board.temperature_c
        samples = [rig.sample()]
        low_w, every_s = LOWERED * self._idle_w, self._rest_interval_s
        self._head = settle(rig, self._known, low_w, samples, every_s, self._least_s)
        self._settling = [samples]
        edge = self._head.edges[-1]
        samples = [rig.sample()]
        self._pause(edge, pause_s, samples)
        self._polling = rig.poll(self._poll, self._poll_s)
        self.start_s = self._begun_s = rig.clock.now_s()
        self._rests = [Rest(edge.time_s, self.start_s, (edge,), tuple(samples))]

    def start_work(self) -> None:
        """Let the work begin now: where several boards were prepared one after another."""
        self.start_s = self._begun_s = self._rig.clock.now_s()
        self._rests = [replace(self._rests[0], end_s=self.start_s)]

    def rest(self, pause_s: float) -> None:
        """Wait for the work, for the next update, and then `pause_s` longer."""
        rig = self._rig
        rig.launches.drain()
        stop_s, self._begun_s = rig.clock.now_s(), math.inf
        samples = [rig.sample()]
        sample = sampler(rig, samples, self._rest_interval_s)
        edge = wait_for_sharp_edge(rig.board, rig.clock, self._known.update_period_s, sample)
        self._pause(edge, pause_s, samples)
        self._begun_s = rig.clock.now_s()
        self._rests.append(Rest(stop_s, self._begun_s, (edge,), tuple(samples)))

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

    def stop_work(self) -> None:
        """Wait for the work and note when it ended: where several boards end one after another."""
        self._rig.launches.drain()
        self._stop_s, self._begun_s = self._rig.clock.now_s(), math.inf

    def end(self, num_passes: int = 0) -> EnergyReading:
        """Wait for the work and until the counter has settled; return the reading."""
        if self._stop_s is None:
            self.stop_work()
        samples = self.stop()
        self._check(samples)
        balance = self._close_balance(samples)
        self._rig.board.refuse_if_shared()  # again: a process may have come meanwhile
        return self._reading(balance, samples, num_passes)

    def stop(self) -> list[Sample]:
        """End the polling; also to be called when the work itself failed."""
        polling, self._polling = self._polling, None
        return polling.stop() if polling is not None else []

    def _close_balance(self, samples: Sequence[Sample]) -> Balance:
        """The last rest: until the counter shows nothing of the work any more."""
        rig, stop_s = self._rig, self._stop_s or 0.0
        # Where several boards end one after another, the polling went on after the work.
        resting = [sample for sample in samples if sample.time_s > stop_s] + [rig.sample()]
        low_w = self._low_w([s for s in samples if s.time_s <= stop_s])
        least_s = UNKNOWN_S if math.isinf(low_w) else 0.0
        tail = settle(rig, self._known, low_w, resting, self._rest_interval_s, least_s)
        self._settling.append(resting)
        if tail.level_w > low_w + (low_w - self._head.level_w) / 2:
            waited_s = tail.edges[-1].time_s - stop_s
            raise CounterLags(f"{tail.level_w:.4g} W {waited_s:.2g} s after the work")
        end_s = tail.edges[-1].time_s
        rests = [*self._rests, Rest(stop_s, end_s, tail.edges, tuple(resting))]
        refuse_backwards(rests[0].edges[-1].energy_mj, tail.edges[-1].energy_mj)
        return Balance(
            tuple(replace(rest, worked_w=_power_before(samples, rest.begin_s)) for rest in rests),
            self._head,
            tail,
            self._known.resolution_mj,
            self._known.update_period_s,
        )

    def _low_w(self, worked: Sequence[Sample]) -> float:
        """The power below which the board is at rest: half-way to the work's."""
        before_w = self._head.level_w
        work_w = mean_w(worked) if worked else before_w
        # Work that draws hardly more than the board did before is not separable from rest.
        return (before_w + work_w) / 2 if work_w > DISTINCT * before_w else math.inf

    def _reading(
        self, balance: Balance, samples: Sequence[Sample], num_passes: int
    ) -> EnergyReading:
        rig, known = self._rig, self._known
        excluded_j, excluded_s = self._excluded_energy(samples)
        work_j = balance.work_j - excluded_j
        window_s = balance.work_s + balance.between_s - excluded_s
        if not work_j > 0:
            raise NoEnergy(f"{work_j:.4g} J in {window_s:.3g} s")
        check = check_counter(balance.rests, samples, balance.gained_j)
        without_j = balance.around_j + excluded_j
        return EnergyReading(
            gross_j=work_j + balance.between_j,
            idle_j=known.idle_w * window_s,
            window_s=window_s,
            num_passes=num_passes,
            update_period_s=known.update_period_s,
            rest_j=balance.between_j,
            rest_s=balance.between_s,
            chance=balance.chance_j / work_j,
            lag=balance.lag_j / work_j,
            apart=check.apart_j / work_j,
            polled=check.polled_j / work_j,
            integral_j=None if check.power_j is None else check.power_j - without_j,
            # Stretches at several phases check the counter by themselves.
            is_checked=balance.num_phases >= MIN_PHASES or self._is_power_independent(),
            num_phases=balance.num_phases,
            settled_w=balance.tail.level_w,
            power_limit_w=rig.board.power_limit_w,
            device=rig.board.device,
            scope=rig.board.scope,
            temperature_c=(self._before_c, rig.board.temperature_c),
            state=self._state or rig.board.state,
            trace=tuple(samples),
        )

    def _is_power_independent(self) -> bool:
        period_s = self._known.update_period_s
        return any(is_shown_independent(samples, period_s) for samples in self._settling)

    def _poll(self) -> Sample:
        """A sample beside the work; now and then clocks and throttling, which end with the work."""
        now_s = self._rig.clock.now_s()
        if now_s - self._begun_s > STATE_S:
            self._state, self._begun_s = self._rig.board.state, now_s
        return self._rig.sample()

    def _check(self, samples: list[Sample]) -> None:
        refuse_if_short((self._stop_s or 0.0) - self.start_s, self._known)
        unchanged_s = longest_unchanged_s(samples)
        # An update is noticed at the next poll: one interval is added to the limit.
        if unchanged_s > self._known.timeout_s + self._poll_s:
            raise CounterStuck(f"for {unchanged_s:.2g} s within the window")

    def _pause(self, edge: Edge, pause_s: float, samples: list[Sample]) -> None:
        """Wait until `pause_s` after an update, sampling the power of the resting board."""
        clock, period_s = self._rig.clock, self._known.update_period_s
        end_s = edge.time_s + pause_s
        # On a busy host the update may be some periods old: the same phase of a later one.
        end_s += period_s * max(0, math.ceil((clock.now_s() - end_s) / period_s))
        while (left_s := end_s - clock.now_s()) > 0:
            clock.sleep(min(left_s, self._rest_interval_s))
            if end_s - clock.now_s() > QUERY_S:  # a late sample would delay the work
                samples.append(self._rig.sample())

    @property
    def _rest_interval_s(self) -> float:
        return max(QUERY_S, self._known.update_period_s / REST_POLLS)

    def _excluded_energy(self, samples: Sequence[Sample]) -> tuple[float, float]:
        """Joules and seconds of the excluded probes; their energy is integrated power."""
        parts_j = [integral_j(samples, *between) or 0.0 for between in self._excluded]
        return sum(parts_j), sum(end_s - begin_s for begin_s, end_s in self._excluded)


def _power_before(samples: Sequence[Sample], time_s: float) -> float | None:
    """The last power reading of the work before `time_s`; None if there is none."""
    # A sample bears the time before its query, which takes a few milliseconds.
    before = [sample.power_w for sample in samples if sample.time_s < time_s - QUERY_S]
    return before[-1] if before else None


def refuse_if_short(seconds: float, known: Calibration) -> None:
    """Raise WindowTooShort where fewer than 20 updates fit into `seconds`."""
    least_s = MIN_UPDATES * known.update_period_s
    if seconds < SLACK * least_s:
        raise WindowTooShort(
            f"{seconds:.3g} s, and {MIN_UPDATES} updates of the counter take {least_s:.3g} s"
        )
