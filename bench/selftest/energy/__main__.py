"""`make energy`: studies of a real GPU's energy counter; about 20 minutes on an NVIDIA GPU.

    python -m bench.selftest.energy --out DIR [--parts periods,waves,same10,zeus] [--device 0]

Writes energy.json (all results), energy.md (tables for docs/explanation/energy.md) and traces/ (raw
samples that tests can replay) after each part. An interrupted run keeps the parts that it has
completed, and a later run with other parts adds to them. Exit code 0, 1 if a part failed, or 2
without a GPU whose counter can be read.
"""

from __future__ import annotations

import argparse
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
from bench.selftest.energy import studies
from bench.selftest.energy.load import MatrixLoad
from bench.selftest.energy.results import ResultFile
from bench.selftest.energy.tables import markdown
from bench.selftest.energy.traces import record_trace, write_trace

# Part name -> window length of the A/A control.
SAME = {f"same{seconds:g}": seconds for seconds in studies.SECONDS}
PARTS = ("periods", "waves", *SAME, "zeus", "traces")
IDLE_S = 10.0  # of measuring idle power
STEADY_S = 10.0  # of steady load, after heating up with it


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen studies and write their results; returns the exit code."""
    chosen = _parse(arguments)
    try:
        # Before the meter: it creates a CUDA context, which raises the idle power.
        without_w = _idle_without_context(chosen.device)
        with EnergyMeter(torch.device("cuda", chosen.device)) as meter:
            hardware = environment.hardware_class("cuda")
            file = ResultFile(chosen.out or Path("results/published") / f"energy-{hardware}")
            load = MatrixLoad(torch.device("cuda", chosen.device))
            file.add(idle_w_without_context=without_w, **_basics(meter, load))
            failed = run_parts(chosen.parts, meter, load, chosen.windows, file)
    except (EnergyRefused, LookupError) as refusal:
        print(f"no energy to examine: {refusal}", file=sys.stderr)
        return 2
    print(markdown(file.results), f"written to {file.folder}", sep="\n")
    return 1 if failed else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; `parts` is a list of known parts."""
    raw = argparse.RawDescriptionHelpFormatter  # the docstring holds a command line
    parser = argparse.ArgumentParser(
        prog="python -m bench.selftest.energy", description=__doc__, formatter_class=raw
    )
    parser.add_argument("--out", type=Path, help="default: results/published/energy-HARDWARE")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="studies to run, separated by commas"
    )
    parser.add_argument("--device", type=int, default=0, help="torch's index of the GPU")
    parser.add_argument(
        "--windows", type=int, default=5, help="per window length in the A/A control"
    )
    chosen = parser.parse_args(arguments)
    chosen.parts = chosen.parts.split(",")
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return chosen


def _idle_without_context(device: int) -> float:
    """Watts of the idle board before this process has touched CUDA.

    Raises LookupError without a driver or such a board.
    """
    uuids = visible_gpus()
    if device >= len(uuids):
        raise LookupError(f"the driver shows no GPU of index {device}")
    # Not through EnergyMeter: torch.cuda would create the context that must not exist yet.
    pynvml.nvmlInit()
    try:
        board = Board(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuids[device]), "cuda")
        rig = Rig(board, MonotonicClock(), HostLaunches(), ThreadPolling)
        return studies.idle_w(rig, IDLE_S)
    finally:
        pynvml.nvmlShutdown()


def _steady(load: MatrixLoad) -> Step:
    return lambda: load.busy(studies.PASS_S)


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
        "processes": studies.processes(meter.rig),
        "steady_load": {
            "mean_power_w": reading.mean_power_w,
            "counter_over_integral": reading.integral_ratio,
            "uncertainty": reading.uncertainty,
            "host_over_device_time": load.host_over_device_time(),
            "reason": reading.reason,
        },
    }


def run_parts(
    parts: Sequence[str], meter: EnergyMeter, load: MatrixLoad, windows: int, file: ResultFile
) -> list[str]:
    """Run the studies, writing each result before the next study; returns those that failed."""
    failed = []
    for part in parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        try:
            file.add(**_run_part(part, meter, load, windows, file.folder))
        except Exception as error:  # of another package or a driver: the other studies still run
            print(f"{part} failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(part)
    return failed


def _run_part(
    part: str, meter: EnergyMeter, load: MatrixLoad, windows: int, out: Path
) -> dict[str, Any]:
    if part == "periods":
        return {"periods": studies.periods(meter.rig, load.busy)}
    if part == "waves":
        # 25 updates: 5 more than a window needs.
        window_s = max(2.0, 25 * meter.calibration(IDLE_S).update_period_s)
        return {"square_waves": studies.square_waves(meter, load.busy, window_s)}
    if part in SAME:
        return {"same_work": studies.same_work(meter, load.busy, windows, (SAME[part],))}
    if part == "zeus":
        return {"zeus": _zeus(meter, load.device, _steady(load))}
    for name, step in (("steady", _steady(load)), ("wave", lambda: load.wave(0.1))):
        write_trace(out / "traces", name, record_trace(meter, step, 3.0))
    return {}


def _zeus(meter: EnergyMeter, device: torch.device, step: Step) -> dict[str, Any]:
    """Comparison with zeus, if it is installed (pip install zeus)."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        return {"missing": f"zeus is not installed ({error})"}
    monitor = ZeusMonitor(gpu_indices=[device.index])
    return studies.against_zeus(meter, step, STEADY_S, monitor)


if __name__ == "__main__":
    sys.exit(main())
