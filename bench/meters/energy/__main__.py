"""`make energy`: what a real GPU's energy counter does; needs an NVIDIA GPU, about 15 minutes.

    python -m bench.meters.energy --out DIR [--parts periods,waves,same,zeus] [--device 0]

Writes energy.json (every answer), energy.md (the tables of docs/energy.md) and traces/ (raw
readings that tests can replay). Exit code 0, or 2 without a GPU whose counter can be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pynvml
import torch

from bench import environment
from bench.launch.devices import visible_gpus
from bench.meters.energy import questions
from bench.meters.energy.answers import markdown
from bench.meters.energy.board import Board
from bench.meters.energy.calibration import Step
from bench.meters.energy.launches import HostLaunches
from bench.meters.energy.load import MatrixLoad
from bench.meters.energy.meter import EnergyMeter
from bench.meters.energy.polling import MonotonicClock, ThreadPolling
from bench.meters.energy.refusals import EnergyRefused
from bench.meters.energy.rig import Rig
from bench.meters.energy.traces import record_trace, write_trace

PARTS = ("periods", "waves", "same", "zeus", "traces")
IDLE_S = 10.0
STEADY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Ask the chosen questions and write their answers; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.meters.energy", description=__doc__)
    parser.add_argument("--out", type=Path, help="default: results/published/energy-HARDWARE")
    parser.add_argument("--parts", default=",".join(PARTS), help="which questions, with commas")
    parser.add_argument("--device", type=int, default=0, help="torch's number of the GPU")
    parser.add_argument("--windows", type=int, default=5, help="per length in the A/A control")
    chosen = parser.parse_args(arguments)
    parts = chosen.parts.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    try:
        without_w = _idle_without_context(chosen.device)
        with EnergyMeter(torch.device("cuda", chosen.device)) as meter:
            hardware = environment.hardware_class("cuda")
            out = chosen.out or Path("results/published") / f"energy-{hardware}"
            answers = {"idle_w_without_context": without_w}
            load = MatrixLoad(torch.device("cuda", chosen.device))
            answers |= _ask(meter, load, parts, chosen.windows, out)
    except (EnergyRefused, LookupError) as refusal:
        print(f"no energy to examine: {refusal}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(answers, indent=1, allow_nan=False) + "\n"
    (out / "energy.json").write_text(text, encoding="utf-8")
    (out / "energy.md").write_text(markdown(answers), encoding="utf-8")
    print(markdown(answers), f"written to {out}", sep="\n")
    return 0


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


def _ask(
    meter: EnergyMeter, load: MatrixLoad, parts: list[str], windows: int, out: Path
) -> dict[str, Any]:
    """Every chosen question, after a calibration with a context and a steady load."""

    def steady() -> None:
        load.busy(questions.PASS_S)

    known = meter.calibrate(IDLE_S, steady)
    meter.heat_up(steady, STEADY_S)
    reading = meter.measure(steady, STEADY_S)
    answers: dict[str, Any] = {
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
    if "periods" in parts:
        answers["periods"] = questions.periods(meter.rig, load.busy)
    if "waves" in parts:
        window_s = max(2.0, 25 * known.update_period_s)
        answers["square_waves"] = questions.square_waves(meter, load.busy, window_s)
    if "same" in parts:
        answers["same_work"] = questions.same_work(meter, load.busy, windows)
    if "zeus" in parts:
        answers["zeus"] = _zeus(meter, load.device, steady)
    if "traces" in parts:
        for name, step in (("steady", steady), ("wave", lambda: load.wave(0.1))):
            write_trace(out / "traces", name, record_trace(meter, step, 3.0))
    return answers


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
