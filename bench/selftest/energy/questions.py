"""What only a real board can answer: each question as a measurement, over any rig.

How often do counter and power move? Does the counter see all of a load that comes and goes? What
does a context cost? How well does the same work repeat? Does another tool agree?
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

from bench.meters.energy.calibration import Step, run_for
from bench.meters.energy.edges import Edge, counter_updates, period_s, wait_for_edge
from bench.meters.energy.meter import EnergyMeter
from bench.meters.energy.polling import Sample
from bench.meters.energy.refusals import EnergyRefused
from bench.meters.energy.repeats import compare_energy
from bench.meters.energy.rig import Rig

Busy = Callable[[float], None]  # keep the board busy for so many seconds, then return
Answer = dict[str, Any]
LOOK_S = 3.0
WAVES_S = (0.020, 0.037, 0.050, 0.100, 0.200)
NUM_PHASES = 8
SECONDS = (2.0, 5.0, 10.0, 30.0)
PASS_S = 0.02


def periods(rig: Rig, busy: Busy) -> list[Answer]:
    """How often counter, instantaneous and average power change, idle and loaded."""

    def usage() -> Sample:
        milliwatts = rig.board.query("nvmlDeviceGetPowerUsage") or 0
        return Sample(rig.clock.now_s(), 0, milliwatts / 1e3)

    answers = []
    for name, step in (("idle", lambda: rig.clock.sleep(PASS_S)), ("loaded", lambda: busy(PASS_S))):
        samples = _looks(rig, step, rig.sample)
        averages = _looks(rig, step, usage)
        answers.append(
            {
                "load": name,
                "looks_per_s": len(samples) / LOOK_S,
                "counter_period_s": _typical(counter_updates(samples)),
                "power_period_s": _typical(power_moves(samples)),
                "average_period_s": _typical(power_moves(averages)),
                "smallest_step_mj": _smallest_step_mj(samples),
                "mean_power_w": mean(sample.power_w for sample in samples),
                "mean_average_w": mean(sample.power_w for sample in averages),
            }
        )
    return answers


def _looks(rig: Rig, step: Step, read: Callable[[], Sample]) -> list[Sample]:
    """What `read` shows every millisecond while `step` runs for three seconds."""
    polling = rig.poll(read, 0.001)
    try:
        run_for(rig, step, LOOK_S)
    finally:
        samples = polling.stop()
    return samples


def _typical(moved: list[Edge]) -> float | None:
    return period_s(moved) if len(moved) > 2 else None


def power_moves(samples: Sequence[Sample]) -> list[Edge]:
    """When the power reading changed."""
    found, last = [], samples[0]
    for sample in samples:
        if sample.power_w != last.power_w:
            found.append(Edge(sample.energy_mj, last.time_s, sample.time_s))
        last = sample
    return found


def square_waves(
    meter: EnergyMeter, busy: Busy, seconds: float, waves_s: Sequence[float] = WAVES_S
) -> list[Answer]:
    """Counter against integrated power and against duty x power, for loads that come and go.

    Half of each period is busy. A sensor that looks only part of the time is off by tens of per
    cent at the periods of its own sampling, and by other amounts at each of eight phases.
    """
    loaded_w = meter.measure(lambda: busy(PASS_S), seconds).mean_power_w
    idle_w = meter.calibration(seconds).idle_w
    return [
        _wave(meter, busy, seconds, wave_s, phase, (loaded_w + idle_w) / 2)
        for wave_s in waves_s
        for phase in range(NUM_PHASES)
    ]


def _wave(
    meter: EnergyMeter, busy: Busy, seconds: float, wave_s: float, phase: int, half_w: float
) -> Answer:
    clock = meter.rig.clock
    wait_for_edge(meter.rig.board, clock, meter.calibration(seconds).timeout_s)
    anchor_s = clock.now_s() + wave_s * phase / NUM_PHASES

    def step() -> None:
        busy(wave_s / 2)
        clock.sleep(wave_s - (clock.now_s() - anchor_s) % wave_s)

    answer: Answer = {"wave_s": wave_s, "phase": phase}
    try:
        reading = meter.measure(step, seconds)
    except EnergyRefused as refusal:
        return {**answer, "refused": refusal.reason}
    return {
        **answer,
        "counter_w": reading.mean_power_w,
        "integral_w": reading.integral_j / reading.window_s if reading.integral_j else None,
        "expected_w": half_w,
        "counter_over_integral": reading.integral_ratio,
        "counter_over_expected": reading.mean_power_w / half_w,
    }


def same_work(
    meter: EnergyMeter, busy: Busy, windows: int, seconds: Sequence[float] = SECONDS
) -> list[Answer]:
    """The A/A control: the same work under two names in windows of several lengths."""
    answers = []
    for each_s in seconds:
        answer: Answer = {"window_s": each_s, "windows": windows}
        try:
            found = compare_energy(
                meter, lambda: busy(PASS_S), lambda: busy(PASS_S), each_s, windows
            )
            ratio = found.ratio
            answer |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
            answer |= {"relative_uncertainty": found.candidate.uncertainty, "reason": found.reason}
        except EnergyRefused as refusal:
            answer["refused"] = refusal.reason
        answers.append(answer)
    return answers


def processes(rig: Rig) -> Answer:
    """Which processes the driver shows, and whether this one is among them."""
    found = rig.board.query("nvmlDeviceGetComputeRunningProcesses")
    if found is None:
        return {"visible": False}
    pids = [process.pid for process in found]
    return {"visible": True, "num": len(pids), "own_is_among_them": os.getpid() in pids}


def idle_w(rig: Rig, seconds: float) -> float:
    """Watts of the board from one update of its counter to another while nothing runs."""
    start = wait_for_edge(rig.board, rig.clock, LOOK_S)
    rig.clock.sleep(seconds)
    end = wait_for_edge(rig.board, rig.clock, LOOK_S)
    return (end.energy_mj - start.energy_mj) / 1e3 / (end.time_s - start.time_s)


def against_zeus(meter: EnergyMeter, step: Step, seconds: float, zeus: Any) -> Answer:
    """Joules of one pass from this meter and from a ZeusMonitor over as many passes."""
    ours = meter.measure(step, seconds)
    zeus.begin_window("condbench", sync_execution=False)
    for _ in range(ours.num_passes):
        step()
    meter.rig.launches.drain()
    theirs_j = sum(zeus.end_window("condbench", sync_execution=False).gpu_energy.values())
    per_pass_j = theirs_j / ours.num_passes
    return {
        "condbench_j_per_pass": ours.j_per_pass,
        "zeus_j_per_pass": per_pass_j,
        "ratio": ours.j_per_pass / per_pass_j if per_pass_j else None,
        "num_passes": ours.num_passes,
        "reason": ours.reason,
    }


def _smallest_step_mj(samples: Sequence[Sample]) -> int | None:
    values = sorted({sample.energy_mj for sample in samples})
    steps = [after - before for before, after in pairwise(values)]
    return min(steps, default=None)
