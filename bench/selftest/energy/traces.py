"""Raw samples of a board in a file, so that a window of a real GPU can be replayed without one.

NAME.csv    time_s, energy_mj, power_w: every sample, more frequent than the counter's updates
NAME.json   times of the meter's begin and the work's end, the result, the board's facts
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.meters.energy.calibration import Calibration, Step
from bench.meters.energy.meter import EnergyMeter
from bench.meters.energy.polling import Sample

COLUMNS = ("time_s", "energy_mj", "power_w")
FINE_S = 0.001  # between samples


@dataclass(frozen=True)
class Trace:
    """Samples of a board around one window. Times count from the first sample."""

    samples: list[Sample]
    begin_s: float  # the meter begins to wait for an update
    end_s: float  # end of the work
    pause_s: float  # between the update and the work
    gross_j: float  # the meter's result
    calibration: Calibration
    facts: dict[str, Any]


def record_trace(meter: EnergyMeter, step: Step, seconds: float) -> Trace:
    """Measure `step` for `seconds` while a second thread samples everything, tail included."""
    rig, calibration = meter.rig, meter.calibration(seconds, step)
    pause_s = meter.pauses_s()[0]  # one phase: a replay cannot repeat what happens in the rests
    polling = rig.start_polling(FINE_S)
    ended_s = begin_s = rig.clock.now_s()

    def timed_step() -> None:
        nonlocal ended_s
        step()
        rig.launches.drain()
        ended_s = rig.clock.now_s()  # of the last pass, in the end

    try:
        reading = meter.measure(timed_step, seconds, [pause_s])
        # A replay waits for an update after the work, too.
        rig.clock.sleep(2 * calibration.update_period_s)
    finally:
        samples = polling.stop()
    first_s = samples[0].time_s
    shifted = [Sample(s.time_s - first_s, s.energy_mj, s.power_w) for s in samples]
    return Trace(
        shifted,
        begin_s - first_s,
        ended_s - first_s,
        pause_s,
        reading.gross_j,
        calibration,
        meter.facts(),
    )


def write_trace(folder: Path, name: str, trace: Trace) -> None:
    """Write `name`.csv and `name`.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        # Microseconds and milliwatts: finer than any board reports.
        rows = ((f"{s.time_s:.6f}", s.energy_mj, f"{s.power_w:.3f}") for s in trace.samples)
        writer.writerows(rows)
    content = {
        "begin_s": trace.begin_s,
        "end_s": trace.end_s,
        "pause_s": trace.pause_s,
        "gross_j": trace.gross_j,
        "calibration": asdict(trace.calibration),
        "facts": trace.facts,
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def read_trace(folder: Path, name: str) -> Trace:
    """The trace that `write_trace` wrote. Raises OSError, ValueError or KeyError if damaged."""
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with (folder / f"{name}.csv").open(newline="", encoding="ascii") as file:
        rows: Sequence[dict[str, str]] = list(csv.DictReader(file))
    samples = [
        Sample(float(row["time_s"]), int(row["energy_mj"]), float(row["power_w"])) for row in rows
    ]
    calibration = Calibration(**content.pop("calibration"))
    return Trace(samples=samples, calibration=calibration, **content)
