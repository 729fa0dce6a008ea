"""The overhead of the harness per trial (`make overhead`).

    python -m tests.studies.overhead [--trials N] [KEY=VALUE ...]

Trials run through the real launcher, fork server and preloaded torch. Printed are medians, in s, of

- an empty trial, which writes a record and nothing else: the cost of a process per trial;
- a real trial of two training steps: the time from one trial's end to the next one's, minus the
  phases that train, evaluate and measure;
- the part of that work that generates the task's data and references (such as a nearest
  neighbour), which every trial repeats in its own process;
- sending a record to the W&B mirror, offline.
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

from bench.launch import local as launch
from bench.launch.devices import Machine
from bench.launch.outcome import Summary
from bench.launch.progress import Lines
from bench.publish.runs import Mirror
from bench.records.record import TRIAL_NAME, Record, write_record

EMPTY = "tests.studies.overhead:empty_trial"
DATA = "tests.studies.overhead:data_trial"
WORK = ("train", "calibrate", "evaluate", "memory", "flops", "time", "energy")
SHORT = (
    "train.steps=2",
    "measure.processes=1",
    "measure.rounds=2",
    "measure.num_inputs=2",
    "measure.batch_sizes=[1]",
    "measure.warmup_s=0.01",
    "measure.block_ms=1",
    "gpu.threads=1",
)
NUM_SAMPLES = 64  # of a batch
TRIAL_TARGET_S, MIRROR_TARGET_S = 0.5, 0.2


def empty_trial(folder: Path, on_phase: Callable[[str, float], None]) -> None:
    """A trial that only writes its record."""
    _write_ok(folder)


def data_trial(folder: Path, on_phase: Callable[[str, float], None]) -> None:
    """A trial that generates its task's samples and the references of an evaluation."""
    import torch

    from bench.trial.trial import read_trial

    trial = read_trial(folder)
    task, backbone = trial.plugin("task"), trial.plugin("backbone")
    model = backbone.build(task.spec).eval()
    on_phase("data", 0.0)
    next(iter(task.batches("train", NUM_SAMPLES, seed=0)))
    test = next(iter(task.batches("test", NUM_SAMPLES)))
    on_phase("references", 0.0)
    with torch.no_grad():
        task.evaluate(model, [test])
    on_phase("record", 1.0)
    _write_ok(folder)


def _write_ok(folder: Path) -> None:
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


Seconds = dict[str, list[float]]


def time_data(folders: list[Path]) -> Seconds:
    """Seconds for the task's samples and for its references in each of these trials."""
    summary = _run(folders, DATA, lambda folder: None)
    parts = ("data", "references")
    return {part: [one.phases_s[part] for one in summary.outcomes] for part in parts}


def time_trials(folders: list[Path], mirror: Mirror, entry: str) -> tuple[list[float], list[float]]:
    """Seconds of each trial beyond its work, and seconds of publishing its record.

    Without the first trial, which also waits for the fork server's imports.
    """
    ended, published = [], []

    def publish(folder: Path) -> None:
        ended.append(time.monotonic())
        mirror.send(folder)
        published.append(time.monotonic())

    summary = _run(folders, entry, publish)
    work = [sum(one.phases_s.get(name, 0.0) for name in WORK) for one in summary.outcomes]
    later = range(1, len(folders))
    rest = [ended[n] - published[n - 1] - work[n] for n in later]
    return rest, [published[n] - ended[n] for n in later]


def _run(folders: list[Path], entry: str, after_record: Callable[[Path], None]) -> Summary:
    """Run all trials with private device locks, as waiting for another launcher would count.

    Raises RuntimeError for a failed trial, whose time would be meaningless.
    """
    with tempfile.TemporaryDirectory() as locks:
        machine, display = Machine((), Path(locks)), Lines(io.StringIO())
        summary = launch.run_trials(
            folders, machine=machine, display=display, after_record=after_record, entry=entry
        )
    for outcome in summary.outcomes:
        if outcome.status != "ok":
            raise RuntimeError(f"{outcome.folder}: {outcome.status}: {outcome.reason}")
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Print the medians beside their targets; returns 1 if a target is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.overhead", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--trials", type=int, default=10, help="of each kind (default: 10)")
    parser.add_argument("overrides", nargs="*", help="of the trials, e.g. task=text")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place, Mirror("offline", "overhead") as mirror:
        num_trials = given.trials + 1
        folders = write_folders(Path(place) / "empty", num_trials, *given.overrides)
        empty_s, _ = time_trials(folders, Mirror("disabled", "overhead"), EMPTY)
        folders = write_folders(Path(place) / "real", num_trials, *given.overrides)
        real_s, mirror_s = time_trials(folders, mirror, launch.ENTRY)
        if mirror.problems:
            raise RuntimeError(mirror.problems[0])
        made_s = time_data(write_folders(Path(place) / "data", num_trials, *given.overrides))
    rows = [
        ("empty trial", empty_s, TRIAL_TARGET_S),
        ("real trial, beyond its work", real_s, TRIAL_TARGET_S),
        ("W&B mirror, offline", mirror_s, MIRROR_TARGET_S),
    ]
    for name, seconds, target_s in rows:
        print(f"{name:30} median {statistics.median(seconds):.3f} s (target {target_s} s)")
    for name, seconds in made_s.items():
        label = f"the task's {name}, as work"
        print(f"{label:30} median {statistics.median(seconds):.3f} s (in every trial)")
    return int(any(statistics.median(seconds) > target_s for _, seconds, target_s in rows))


if __name__ == "__main__":
    sys.exit(main())
