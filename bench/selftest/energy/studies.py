"""Studies of a board that no data sheet replaces; each is a function over any rig.

Update periods of counter and power; accuracy under a load that comes and goes; idle power with and
without a context; repeatability of the same work; agreement with another tool.
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

Busy = Callable[[float], None]  # keeps the board busy for so many seconds, then returns
Result = dict[str, Any]  # one row of a table, of JSON types
SAMPLE_S = 3.0  # seconds of sampling per reading of `periods`
# Periods of square waves: reported update periods, and 37 ms, a multiple of none.
WAVES_S = (0.020, 0.037, 0.050, 0.100, 0.200)
NUM_PHASES = 8
SECONDS = (2.0, 5.0, 10.0, 30.0)  # window lengths of the A/A control
PASS_S = 0.02


def periods(rig: Rig, busy: Busy) -> list[Result]:
    """Update periods of counter, instantaneous and average power, idle and loaded."""

    def average_power() -> Sample:
        # From Ampere on this is the mean of the last second.
        milliwatts = rig.board.query("nvmlDeviceGetPowerUsage") or 0
        return Sample(rig.clock.now_s(), 0, milliwatts / 1e3)

    results = []
    for name, step in (("idle", lambda: rig.clock.sleep(PASS_S)), ("loaded", lambda: busy(PASS_S))):
        samples = _sample(rig, step, rig.sample)
        averages = _sample(rig, step, average_power)
        results.append(
            {
                "load": name,
                "looks_per_s": len(samples) / SAMPLE_S,
                "counter_period_s": _typical(counter_updates(samples)),
                "power_period_s": _typical(power_updates(samples)),
                "average_period_s": _typical(power_updates(averages)),
                "smallest_step_mj": _smallest_step_mj(samples),
                "mean_power_w": mean(sample.power_w for sample in samples),
                "mean_average_w": mean(sample.power_w for sample in averages),
            }
        )
    return results


def _sample(rig: Rig, step: Step, read: Callable[[], Sample]) -> list[Sample]:
    """Results of `read` every millisecond while `step` runs for three seconds."""
    polling = rig.poll(read, 0.001)
    try:
        run_for(rig, step, SAMPLE_S)
    finally:
        samples = polling.stop()
    return samples


def _typical(updates: list[Edge]) -> float | None:
    return period_s(updates) if len(updates) > 2 else None


def power_updates(samples: Sequence[Sample]) -> list[Edge]:
    """Times at which the power reading changed."""
    found, last = [], samples[0]
    for sample in samples:
        if sample.power_w != last.power_w:
            found.append(Edge(sample.energy_mj, last.time_s, sample.time_s))
        last = sample
    return found


def square_waves(
    meter: EnergyMeter, busy: Busy, seconds: float, waves_s: Sequence[float] = WAVES_S
) -> list[Result]:
    """Counter against integrated power and against duty x power, for loads that come and go.

    Half of each period is busy. A sensor that samples only part of the time is wrong by tens of
    percent at the period of its own sampling, and by other amounts at each of eight phases.
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
) -> Result:
    clock = meter.rig.clock
    wait_for_edge(meter.rig.board, clock, meter.calibration(seconds).timeout_s)
    # Phases count from an update of the counter.
    anchor_s = clock.now_s() + wave_s * phase / NUM_PHASES

    def step() -> None:
        busy(wave_s / 2)
        # To the next period on the grid: sleeping a fixed half would drift with each late wake-up.
        clock.sleep(wave_s - (clock.now_s() - anchor_s) % wave_s)

    result: Result = {"wave_s": wave_s, "phase": phase}
    try:
        # One stretch: rests would change the phase that is studied here.
        reading = meter.measure(step, seconds, meter.pauses_s()[:1])
    except EnergyRefused as refusal:
        return {**result, "refused": refusal.reason}
    return {
        **result,
        "counter_w": reading.mean_power_w,
        "integral_w": reading.integral_j / reading.window_s if reading.integral_j else None,
        "expected_w": half_w,
        "counter_over_integral": reading.integral_ratio,
        "counter_over_expected": reading.mean_power_w / half_w,
    }


def same_work(
    meter: EnergyMeter, busy: Busy, windows: int, seconds: Sequence[float] = SECONDS
) -> list[Result]:
    """The A/A control: the same work as candidate and baseline, in windows of several lengths."""
    results = []
    for each_s in seconds:
        result: Result = {"window_s": each_s, "windows": windows}
        try:
            found = compare_energy(
                meter, lambda: busy(PASS_S), lambda: busy(PASS_S), each_s, windows
            )
            ratio = found.ratio
            result |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
            result |= {"relative_uncertainty": found.candidate.uncertainty, "reason": found.reason}
        except EnergyRefused as refusal:
            result["refused"] = refusal.reason
        results.append(result)
    return results


def processes(rig: Rig) -> Result:
    """The processes that the driver lists, and whether this one is among them."""
    found = rig.board.query("nvmlDeviceGetComputeRunningProcesses")
    if found is None:
        return {"visible": False}
    pids = [process.pid for process in found]
    return {"visible": True, "num": len(pids), "own_is_among_them": os.getpid() in pids}


def idle_w(rig: Rig, seconds: float) -> float:
    """Mean watts of the board between two updates of its counter, without work."""
    # The period is unknown before a calibration: the longest wait is generous.
    start = wait_for_edge(rig.board, rig.clock, SAMPLE_S)
    rig.clock.sleep(seconds)
    end = wait_for_edge(rig.board, rig.clock, SAMPLE_S)
    return (end.energy_mj - start.energy_mj) / 1e3 / (end.time_s - start.time_s)


def against_zeus(meter: EnergyMeter, step: Step, seconds: float, zeus: Any) -> Result:
    """Joules of one pass from this meter and from a ZeusMonitor over as many passes."""
    ours = meter.measure(step, seconds)
    # One after the other, over equally many passes: zeus has windows of no fixed duration.
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
    # Steps between values, not between samples: a sample may miss an update.
    values = sorted({sample.energy_mj for sample in samples})
    steps = [after - before for before, after in pairwise(values)]
    return min(steps, default=None)
