"""`make energy`: what a real GPU's energy counter does; needs an NVIDIA GPU, about 15 minutes.

    python -m bench.selftest.energy --out DIR [--parts periods,waves,same10,zeus] [--device 0]

Writes energy.json (every answer), energy.md (tables for docs/explanation/energy.md) and traces/
(raw readings that tests can replay) after each part, so that a run that is cut short keeps what it has;
a later one with other parts adds to it. Exit code 0, 1 where a part failed, or 2 without a GPU
whose counter can be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pynvml
import torch

from bench.launch.devices import visible_gpus
from bench.meters.energy.board import Board
from bench.meters.energy.calibration import Step
from bench.meters.energy.launches import HostLaunches
from bench.meters.energy.meter import EnergyMeter
from bench.meters.energy.polling import MonotonicClock, ThreadPolling
from bench.meters.energy.refusals import EnergyRefused
from bench.meters.energy.rig import Rig
from bench.records import environment
from bench.records.record import write_json
from bench.selftest.energy import questions
from bench.selftest.energy.answers import markdown
from bench.selftest.energy.load import MatrixLoad
from bench.selftest.energy.traces import record_trace, write_trace

SAME = {f"same{seconds:g}": seconds for seconds in questions.SECONDS}
PARTS = ("periods", "waves", *SAME, "zeus", "traces")
IDLE_S = 10.0
STEADY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Ask the chosen questions and write their answers; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.selftest.energy", description=__doc__)
    parser.add_argument("--out", type=Path, help="default: results/published/energy-HARDWARE")
    parser.add_argument("--parts", default=",".join(PARTS), help="which questions, with commas")
    parser.add_argument("--device", type=int, default=0, help="torch's number of the GPU")
    parser.add_argument("--windows", type=int, default=5, help="per length in the A/A control")
    chosen = parser.parse_args(arguments)
    parts = chosen.parts.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    try:
        without_w = _idle_without_context(chosen.device)
        with EnergyMeter(torch.device("cuda", chosen.device)) as meter:
            hardware = environment.hardware_class("cuda")
            notes = Notes(chosen.out or Path("results/published") / f"energy-{hardware}")
            load = MatrixLoad(torch.device("cuda", chosen.device))
            notes.add(idle_w_without_context=without_w, **_basics(meter, load))
            failed = ask(parts, meter, load, chosen.windows, notes)
    except (EnergyRefused, LookupError) as refusal:
        print(f"no energy to examine: {refusal}", file=sys.stderr)
        return 2
    print(markdown(notes.answers), f"written to {notes.folder}", sep="\n")
    return 1 if failed else 0


class Notes:
    """The answers so far: read from `folder` if an earlier run of the same board left some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, Any] = {}

    def add(self, **answers: Any) -> None:
        """Write these answers beside the others, in place of older ones to the same question."""
        if "facts" in answers:
            self.answers = self._earlier(answers["facts"])
        if "same_work" in answers:
            others = {row["window_s"]: row for row in self.answers.get("same_work", [])}
            others |= {row["window_s"]: row for row in answers["same_work"]}
            answers["same_work"] = [others[seconds] for seconds in sorted(others)]
        self.answers |= answers
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "energy.json", self.answers)
        (self.folder / "energy.md").write_text(markdown(self.answers), encoding="utf-8")

    def _earlier(self, facts: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / "energy.json"
        if not path.exists():
            return {}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in ("uuid", "driver"):
            if found["facts"][name] != facts[name]:
                raise LookupError(
                    f"{path} is of {name} {found['facts'][name]}, this is {facts[name]}: "
                    "choose another --out"
                )
        return found


def _idle_without_context(device: int) -> float:
    """Watts of the idle board before this process has touched CUDA.

    Raises LookupError without a driver or such a board.
    """
    uuids = visible_gpus()
    if device >= len(uuids):
        raise LookupError(f"the driver shows no GPU number {device}")
    pynvml.nvmlInit()
    try:
        board = Board(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuids[device]), "cuda")
        rig = Rig(board, MonotonicClock(), HostLaunches(), ThreadPolling)
        return questions.idle_w(rig, IDLE_S)
    finally:
        pynvml.nvmlShutdown()


def _steady(load: MatrixLoad) -> Step:
    return lambda: load.busy(questions.PASS_S)


def _basics(meter: EnergyMeter, load: MatrixLoad) -> dict[str, Any]:
    """Calibration with a context, and ten seconds of steady load."""
    steady = _steady(load)
    known = meter.calibrate(IDLE_S, steady)
    meter.heat_up(steady, STEADY_S)
    reading = meter.measure(steady, STEADY_S)
    return {
        "idle_w_with_context": known.idle_w,
        "facts": meter.facts(),
        "environment": environment.fingerprint(),
        "processes": questions.processes(meter.rig),
        "steady_load": {
            "mean_power_w": reading.mean_power_w,
            "counter_over_integral": reading.integral_ratio,
            "uncertainty": reading.uncertainty,
            "host_over_device_time": load.host_over_device_time(),
            "reason": reading.reason,
        },
    }


def ask(
    parts: Sequence[str], meter: EnergyMeter, load: MatrixLoad, windows: int, notes: Notes
) -> list[str]:
    """Every chosen question, its answer written before the next; the parts that failed."""
    failed = []
    for part in parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        try:
            notes.add(**_answer(part, meter, load, windows, notes.folder))
        except Exception as error:  # whatever another package or a driver does: the others go on
            print(f"{part} failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(part)
    return failed


def _answer(
    part: str, meter: EnergyMeter, load: MatrixLoad, windows: int, out: Path
) -> dict[str, Any]:
    if part == "periods":
        return {"periods": questions.periods(meter.rig, load.busy)}
    if part == "waves":
        window_s = max(2.0, 25 * meter.calibration(IDLE_S).update_period_s)
        return {"square_waves": questions.square_waves(meter, load.busy, window_s)}
    if part in SAME:
        return {"same_work": questions.same_work(meter, load.busy, windows, (SAME[part],))}
    if part == "zeus":
        return {"zeus": _zeus(meter, load.device, _steady(load))}
    for name, step in (("steady", _steady(load)), ("wave", lambda: load.wave(0.1))):
        write_trace(out / "traces", name, record_trace(meter, step, 3.0))
    return {}


def _zeus(meter: EnergyMeter, device: torch.device, step: Step) -> dict[str, Any]:
    """A second opinion, where the package is installed (pip install zeus)."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        return {"missing": f"zeus is not installed ({error})"}
    monitor = ZeusMonitor(gpu_indices=[device.index])
    return questions.against_zeus(meter, step, STEADY_S, monitor)


if __name__ == "__main__":
    sys.exit(main())
