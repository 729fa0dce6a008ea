"""Calibration, once per session: the counter's period and step size, and the idle power."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.meters.energy.edges import (
    NUM_PERIODS,
    counter_updates,
    longest_unchanged_s,
    period_s,
    refuse_backwards,
    wait_for_edge,
    wait_for_sharp_edge,
)
from bench.meters.energy.polling import Sample
from bench.meters.energy.refusals import CounterStuck
from bench.meters.energy.rig import Rig

Step = Callable[[], object]  # one whole pass over a list of batches

NUM_EDGES = 20  # periods averaged: the scatter of their mean is then a fifth of a single one's
FIRST_EDGE_S = 2.0  # the longest wait while the update period is unknown
FINE_S = 0.002  # between polls that find the period under load: a tenth of the shortest one
HEATING_STRETCH_S = 10.0
LONGEST_HEATING_S = 60.0


@dataclass(frozen=True)
class Calibration:
    """A session's constants of its board. The idle power includes this process's context."""

    idle_period_s: float
    loaded_period_s: float | None  # None without a load, or on a host too busy to poll
    resolution_mj: int  # largest number that divides every count seen
    idle_w: float
    idle_s: float  # seconds over which idle power was measured

    @property
    def update_period_s(self) -> float:
        """The longer of idle and loaded period, by which windows are accepted."""
        return max(self.idle_period_s, self.loaded_period_s or 0.0)

    @property
    def timeout_s(self) -> float:
        """Seconds without an update after which the counter counts as stuck."""
        return NUM_PERIODS * self.update_period_s


def calibrate(rig: Rig, idle_s: float, step: Step | None = None) -> Calibration:
    """Measure period, resolution and idle power; with `step` also the period under load.

    Takes `idle_s`, and about 20 periods without load and with it. Raises NotExclusive where the
    board is shared or busy, CounterStuck and CounterReset where its counter misbehaves.
    """
    rig.launches.drain()
    rig.board.refuse_if_shared()
    # NUM_EDGES periods lie between NUM_EDGES + 1 edges.
    edges = [wait_for_edge(rig.board, rig.clock, FIRST_EDGE_S) for _ in range(NUM_EDGES + 1)]
    idle_period_s = period_s(edges)
    idle_w = _idle_w(rig, idle_s, idle_period_s)
    rig.board.refuse_if_busy()  # here the board has been idle for seconds
    loaded = [] if step is None else _loaded(rig, step, idle_period_s)
    updates = counter_updates(loaded)
    return Calibration(
        idle_period_s=idle_period_s,
        loaded_period_s=period_s(updates) if len(updates) > 2 else None,
        resolution_mj=math.gcd(*[e.energy_mj for e in edges], *[s.energy_mj for s in loaded]),
        idle_w=idle_w,
        idle_s=idle_s,
    )


def heat_up(rig: Rig, step: Step, seconds: float) -> bool | None:
    """Run `step` until the chip warms by less than 1 C in 10 s; whether that was reached in 60 s.

    Leakage grows with temperature: without this the first method measured would seem the most
    economical. Returns None without a thermometer, after `seconds`.
    """
    begun_s, before_c = rig.clock.now_s(), rig.board.temperature_c
    if before_c is None:
        run_for(rig, step, seconds)
        return None
    while rig.clock.now_s() - begun_s < LONGEST_HEATING_S:
        # The thermometer shows whole degrees: in shorter stretches any board seems settled.
        run_for(rig, step, max(seconds, HEATING_STRETCH_S))
        after_c = rig.board.temperature_c
        if after_c is None:
            return None
        if after_c - before_c < 1:
            return True
        before_c = after_c
    return False


def run_for(rig: Rig, step: Step, seconds: float) -> int:
    """Run whole passes for at least `seconds` and wait for the last; their number."""
    num_passes = launch_for(rig, step, seconds)
    rig.launches.drain()
    return num_passes


def launch_for(rig: Rig, step: Step, seconds: float) -> int:
    """Launch whole passes for at least `seconds`; their number. The last one may still run."""
    begun_s, num_passes = rig.clock.now_s(), 0
    while num_passes == 0 or rig.clock.now_s() - begun_s < seconds:
        step()
        rig.launches.bound()
        num_passes += 1
    return num_passes


def _idle_w(rig: Rig, idle_s: float, update_s: float) -> float:
    """Mean power between two edges at least `idle_s` apart, without work of this process."""
    start = wait_for_sharp_edge(rig.board, rig.clock, update_s)
    rig.clock.sleep(idle_s)
    end = wait_for_sharp_edge(rig.board, rig.clock, update_s)
    refuse_backwards(start.energy_mj, end.energy_mj)
    return (end.energy_mj - start.energy_mj) / 1e3 / (end.time_s - start.time_s)


def _loaded(rig: Rig, step: Step, idle_period_s: float) -> list[Sample]:
    """A fine trace of the counter under load."""
    polling = rig.start_polling(FINE_S)
    try:
        run_for(rig, step, (NUM_EDGES + 2) * idle_period_s)
    finally:
        samples = polling.stop()
    unchanged_s = longest_unchanged_s(samples)
    if unchanged_s > NUM_PERIODS * idle_period_s + FINE_S:
        raise CounterStuck(f"for {unchanged_s:.2g} s under load")
    return samples
