"""What the harness adds to a trial: python -m bench.launch.overhead [--trials N]

Trials run through the real launcher, fork server and preloaded torch. Printed are medians, in s, of

- an empty trial, which writes a record and nothing else: what a process of its own costs;
- a real trial of two training steps: the time from one trial's end to the next one's, less the
  phases that train, evaluate and measure;
- handing a record to the W&B mirror, offline.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.launch import trials as launch
from bench.launch.devices import Machine
from bench.launch.progress import Lines
from bench.publish import Mirror
from bench.record import TRIAL_NAME, Record, write_record

EMPTY = "bench.launch.overhead:empty_trial"
WORK = ("train", "calibrate", "evaluate", "memory", "flops", "time", "energy")
SHORT = (
    "train.steps=2",
    "measure.rounds=2",
    "measure.num_inputs=2",
    "measure.batch_sizes=[1]",
    "measure.warmup_s=0.01",
    "measure.block_ms=1",
    "gpu.threads=1",
)
TRIAL_TARGET_S, MIRROR_TARGET_S = 0.5, 0.2


def empty_trial(folder: Path, on_phase: Callable[[str, float], None]) -> None:
    """A trial that only writes its record."""
    trial = json.loads((folder / TRIAL_NAME).read_text(encoding="utf-8"))
    fields = {name: trial[name] for name in ("key", "labels", "config")}
    write_record(folder, Record.model_validate({"status": "ok", **fields}))


def write_folders(results: Path, num_trials: int, *overrides: str) -> list[Path]:
    """Short trials of the dense model that differ by their seed, below `results`."""
    from bench.plan.matrix import (
        make_plan,  # here, as the processes of empty trials import this file
    )
    from bench.plan.staleness import write_trials

    seeds = "seed=" + ",".join(str(seed) for seed in range(num_trials))
    plan = make_plan([f"results={results}", "name=overhead", seeds, *SHORT, *overrides])
    return write_trials(plan.trials)


def run_timed(folders: list[Path], mirror: Mirror, entry: str) -> tuple[list[float], list[float]]:
    """Seconds that each trial cost beyond its work, and that publishing its record took.

    The first is left out: it also waits for the fork server's imports, once per run. Device locks
    are private, as waiting for another launcher would count. Raises RuntimeError when a trial does
    not end well, since its time would be that of something else.
    """
    ended, published = [], []

    def publish(folder: Path) -> None:
        ended.append(time.monotonic())
        mirror.send(folder)
        published.append(time.monotonic())

    with tempfile.TemporaryDirectory() as locks:
        machine, display = Machine((), Path(locks)), Lines(io.StringIO())
        summary = launch.run_trials(
            folders, machine=machine, display=display, after_record=publish, entry=entry
        )
    for outcome in summary.outcomes:
        if outcome.status != "ok":
            raise RuntimeError(f"{outcome.folder}: {outcome.status}: {outcome.reason}")
    work = [sum(one.phases_s.get(name, 0.0) for name in WORK) for one in summary.outcomes]
    later = range(1, len(folders))
    rest = [ended[n] - published[n - 1] - work[n] for n in later]
    return rest, [published[n] - ended[n] for n in later]


def main(arguments: list[str] | None = None) -> int:
    """Print the medians beside their targets; 1 if one is missed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.launch.overhead", description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="of each kind (default: 10)")
    parser.add_argument("overrides", nargs="*", help="of the trials, e.g. task=text")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place, Mirror("offline", "overhead") as mirror:
        num_trials = given.trials + 1
        folders = write_folders(Path(place) / "empty", num_trials, *given.overrides)
        empty_s, _ = run_timed(folders, Mirror("disabled", "overhead"), EMPTY)
        folders = write_folders(Path(place) / "real", num_trials, *given.overrides)
        real_s, mirror_s = run_timed(folders, mirror, launch.ENTRY)
        if mirror.problems:
            raise RuntimeError(mirror.problems[0])
    rows = [
        ("empty trial", empty_s, TRIAL_TARGET_S),
        ("real trial, beyond its work", real_s, TRIAL_TARGET_S),
        ("W&B mirror, offline", mirror_s, MIRROR_TARGET_S),
    ]
    for name, seconds, target_s in rows:
        print(f"{name:28} median {statistics.median(seconds):.3f} s (target {target_s} s)")
    return int(any(statistics.median(seconds) > target_s for _, seconds, target_s in rows))


if __name__ == "__main__":
    sys.exit(main())
