"""`condbench compare --exact`: every method's counts against the golden records. CPU, minutes.

Untrained models only: the same seed trains another model on another processor.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import plugins
from bench.plan.matrix import PlanError, make_plan
from bench.records.scratch import Scratch
from bench.regress.cells import write_trial
from bench.regress.golden import records
from bench.regress.verdict import BadInput

EXPERIMENT = "exact"
BASELINE = Path("results") / "baseline"
OURS = "condbench"  # the distribution whose methods are gated
SETTINGS = ("method", "task", "backbone", "seed", "train")  # what the counts depend on


def compare_golden(
    folder: Path | None = None, overrides: Sequence[str] = (), *, update: bool = False
) -> int:
    """Compare every golden trial with the records in `folder`; the exit code.

    `overrides` choose some of them, such as method=moe. 0: all equal (or, with `update`,
    rewritten), 1: something differs, 4: recorded with another torch. Raises BadInput for a missing
    or damaged baseline and for trials that cannot be planned.
    """
    place = folder or BASELINE
    if not update and not any(place.rglob("*.json")):
        raise BadInput(
            f"{place}: no golden records; condbench compare --exact --update writes them"
        )
    with Scratch() as scratch:
        return _compare_all(place, scratch, overrides, update=update)


def _compare_all(place: Path, scratch: Path, overrides: Sequence[str], *, update: bool) -> int:
    contents = _plan_trials(scratch / "results", overrides)
    paths = [_path(place, content) for content in contents]
    # Before anything is counted: another torch executes other kernels, and every count may differ.
    if not update and (difference := _torch_difference(paths)):
        print(f"not comparable: {difference}", file=sys.stderr)
        return 4
    num_changed = 0
    for number, (path, content) in enumerate(zip(paths, contents, strict=True)):
        work = write_trial(scratch / str(number), content)
        lines = list(_compare_one(path, content, work, update=update))
        num_changed += bool(lines)
        name = path.relative_to(place).with_suffix("")
        print(f"{name}: {'equal' if not lines else ''}", flush=True)
        for line in lines:
            print(f"  {line}", flush=True)
    # With overrides only some trials were planned, and the others are not gone.
    if not overrides:
        num_changed += _report_gone(place, paths, update=update)
    print(f"{len(contents)} golden trials, {num_changed} {'rewritten' if update else 'differ'}")
    return 0 if update or not num_changed else 1


def _plan_trials(results: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The golden trials: every method of this project on the experiment's tasks, or the chosen."""
    # Not those of other installed packages: their counts are not in this repository.
    ours = [p.name for p in plugins.choices("method").values() if p.distribution == OURS]
    chosen = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    chosen = {"experiment": EXPERIMENT, "method": ",".join(ours), **chosen, "results": str(results)}
    try:
        plan = make_plan([f"{key}={value}" for key, value in chosen.items()])
    except PlanError as error:
        raise BadInput(str(error)) from error
    if plan.left_out:
        raise BadInput(plan.left_out[0])
    return [trial.content() for trial in plan.trials]


def _path(place: Path, content: dict[str, Any]) -> Path:
    labels = content["labels"]
    return place / labels["task"] / labels["backbone"] / f"{labels['method']}.json"


def _torch_version() -> str:
    """The installed torch without its build, such as +cpu: counts do not depend on it."""
    return metadata.version("torch").partition("+")[0]


def _torch_difference(paths: list[Path]) -> str:
    """Which record is of another torch than the installed one; "" where none is."""
    here = _torch_version()
    for path in paths:
        if path.is_file() and (recorded := records.read_golden(path)["torch"]) != here:
            return f"{path} was recorded with torch {recorded}, this is {here}"
    return ""


def _compare_one(path: Path, content: dict[str, Any], work: Path, *, update: bool) -> Iterator[str]:
    """What differs in one golden trial, line by line; with `update` it is rewritten."""
    # Here, so that bad usage ends before torch is imported.
    from bench.regress.golden.trial import measure_golden

    before = records.read_golden(path) if path.is_file() else None
    # An update records new decisions, so that it also accepts gates that decide otherwise.
    recorded = None if before is None or update else records.read_decisions(path)
    try:
        found = measure_golden(work, recorded)
    except KeyError as error:  # a gate that is not in the recording
        yield f"decisions: {error.args[0]}"
        return
    except Exception as error:  # whatever a method does; the others still count
        traceback.print_exc()
        yield f"fails: {type(error).__name__}: {error}"
        return
    now = {
        "torch": _torch_version(),
        "config": {name: content["config"][name] for name in SETTINGS},
        "counts": found.counts,
    }
    lines = ["new: no golden record"] if before is None else list(records.changes(before, now))
    if update and (lines or before is None or before["torch"] != now["torch"]):
        records.write_golden(path, now, found.decisions)
    yield from lines


def _report_gone(place: Path, paths: list[Path], *, update: bool) -> int:
    """Print golden records whose trial no longer exists, or delete them; how many there are."""
    left = sorted(set(place.rglob("*.json")) - set(paths))
    for path in left:
        print(f"{path.relative_to(place).with_suffix('')}:\n  gone: no such trial")
        if update:
            path.unlink()
            path.with_suffix(".npz").unlink(missing_ok=True)
    return len(left)
