"""`condbench run`: plan, run the missing trials, mirror their records, report.

    plan -> state of each trial -> trial.json of those that run -> launch -> report

Trials with a valid record are not run again, and the output explains why. A failed trial is listed
and stops nothing.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config import MIN_PROCESSES
from bench.plan.matrix import Plan, make_plan
from bench.plan.planned import PlannedTrial
from bench.plan.staleness import MOVE_IT, Foreign, State, find_states, write_trials
from bench.records import environment
from bench.records.record import LOG_NAME, RECORD_NAME, BadRecord
from bench.records.redaction import printable, printable_lines, redact

if TYPE_CHECKING:
    from bench.launch.outcome import Summary
    from bench.records.reading import Found

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
MAX_LOGS = 3  # paths of failed trials' logs below the report
MAX_LINES = 10  # about one kind of trial; a matrix may have thousands


class Unwritable(Exception):
    """Results or device locks cannot be written; the message names the path and the cause."""


class Unreadable(Exception):
    """A planned trial's record, or every record, cannot be read; the message names the file."""


def run(overrides: Sequence[str], *, plan_only: bool) -> int:
    """Run the trials that `overrides` select, and report them; returns the exit code.

    Raises PlanError, Foreign, Unwritable and Unreadable, each with the path and a remedy.
    """
    plan = make_plan(overrides)
    for line in plan.left_out:
        print(printable_lines(redact(f"left out: {line}")), file=sys.stderr)
    states = find_states(plan.trials, plan.retries)
    # Flushed: standard output may be a pipe, and the trials below take minutes to hours.
    print(headline(plan, states), flush=True)
    if plan_only:
        print("\n".join([*trial_lines(plan.trials, states), *_notes(plan.trials)]))
        return 0
    # Before the first trial: hours of work must not end at a file that cannot be replaced.
    _reject_foreign_files(states)
    running = [t for t, state in zip(plan.trials, states, strict=True) if state.runs]
    for line in (*_explanations(plan.trials, states), *_notes(plan.trials)):
        print(line, flush=True)
    summary = _launch(running, _batches(plan, running)) if running else None
    if summary is not None and summary.interrupted:
        return INTERRUPTED  # without a report: it would show half of a matrix
    report(plan)
    outcomes = _outcomes(plan.trials, states, summary)
    failed = [folder for folder, status in outcomes.items() if status == "failed"]
    if failed:
        print("\n".join(_summarise_failures(Counter(outcomes.values()), failed)))
    # Failures of earlier runs count too: the exit code describes the whole plan.
    return 1 if failed or plan.left_out else 0


def _outcomes(
    trials: Sequence[PlannedTrial], states: Sequence[State], summary: Summary | None
) -> dict[Path, str]:
    """Each trial's folder and its record's status, from this run or an earlier one."""
    # Resolved: the launcher works on absolute paths, the plan on paths as given.
    ended = {one.folder.resolve(): one.status for one in summary.outcomes} if summary else {}
    return {
        trial.folder: ended.get(trial.folder.resolve(), state.why or state.kind)
        for trial, state in zip(trials, states, strict=True)
    }


def _summarise_failures(counts: Counter[str], failed: Sequence[Path]) -> Iterator[str]:
    """Number of trials per status, and the log files of the first failures."""
    numbers = ", ".join(f"{counts[status]} {status}" for status in ("ok", "failed", "skipped"))
    yield f"{numbers}; logs of failed trials:"
    yield from (f"  {folder / LOG_NAME}" for folder in failed[:MAX_LOGS])
    if len(failed) > MAX_LOGS:
        yield f"  and {len(failed) - MAX_LOGS} more"


def headline(plan: Plan, states: Sequence[State]) -> str:
    """One line for the plan, as "quickstart: 14 trials: 12 done, 2 to do"."""
    names = ", ".join(sorted({trial.labels.experiment for trial in plan.trials}))
    counts = Counter(state.kind for state in states)
    parts = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{names}: {len(states)} trial{'s' if len(states) > 1 else ''}: {parts}"


def trial_lines(trials: Sequence[PlannedTrial], states: Sequence[State]) -> Iterator[str]:
    """One line per trial: its state, its name, and the reason."""
    for trial, state in zip(trials, states, strict=True):
        why = f": {state.why}" if state.why else ""
        # Reasons quote files and plugins, which may hold a terminal's escape sequences.
        yield printable(redact(f"  {state.kind:<10} {title(trial)}{why}"))


def title(trial: PlannedTrial) -> str:
    """A trial's display name, from its folder: task/backbone/method,variant/seed-key."""
    return "/".join(trial.folder.parts[-4:])


def _explanations(trials: Sequence[PlannedTrial], states: Sequence[State]) -> Iterator[str]:
    """Why trials run again, or do not, printed before they start."""
    counts = Counter(state.kind for state in states)
    if counts["done"]:
        yield (
            f"{counts['done']} not run again: a record with the same configuration, code, "
            "versions, hardware and data exists"
        )
    if counts["failed"]:
        yield f"{counts['failed']} failed before and not run again; retry=failed runs them"
    reruns = [
        line
        for line, state in zip(trial_lines(trials, states), states, strict=True)
        if state.kind in ("stale", "again")
    ]
    yield from reruns[:MAX_LINES]
    if len(reruns) > MAX_LINES:
        yield f"  and {len(reruns) - MAX_LINES} more (--plan lists them)"


def _notes(trials: Sequence[PlannedTrial]) -> Iterator[str]:
    """Limitations of the results that are already certain before hours of training."""
    timed = [t.config["measure"] for t in trials if not t.config["measure"]["counts_only"]]
    processes = min((measure["processes"] for measure in timed), default=MIN_PROCESSES)
    if processes < MIN_PROCESSES:
        yield (
            f"note: measure.processes={processes}: intervals of speed-ups need at least "
            f"{MIN_PROCESSES} processes"
        )
    minutes = _minutes(trials)
    if minutes is not None:
        yield (
            f"note: map.minutes={minutes:g}: every second size comes first, then those around a "
            "speed-up of 1; the others are left out"
        )
    if all(trial.labels.device == "cpu" for trial in trials) and environment.gpus():
        yield "note: this machine has an NVIDIA GPU; gpu=one selects it"


def _reject_foreign_files(states: Sequence[State]) -> None:
    """Raise Foreign where a damaged or foreign file is in the place of a record."""
    found = [state.why for state in states if state.kind == "in the way"]
    if found:
        more = [f"and {len(found) - MAX_LINES} more"] if len(found) > MAX_LINES else []
        raise Foreign("\n".join([*found[:MAX_LINES], *more]))


def _batches(plan: Plan, running: Sequence[PlannedTrial]) -> Iterator[Sequence[PlannedTrial]]:
    """What of `running` is run together; with map.minutes less than all of it."""
    minutes = _minutes(plan.trials)
    return iter([running]) if minutes is None else _coarse_to_fine(plan, running, minutes)


def _minutes(trials: Sequence[PlannedTrial]) -> float | None:
    """The shortest time that a trial's experiment allows for the run; None without a limit."""
    limits = (trial.config["map"]["minutes"] for trial in trials)
    return min((minutes for minutes in limits if minutes is not None), default=None)


def _coarse_to_fine(
    plan: Plan, running: Sequence[PlannedTrial], minutes: float
) -> Iterator[Sequence[PlannedTrial]]:
    """A map's trials within a time: every second size, then those around the contour.

    What a step found decides about the next: the caller has run what it got before it asks again.
    """
    # Imported here, as the report is: most runs have no map.
    from bench.report.maps.waves import coarse_trials, refining_trials

    to_run = {trial.folder for trial in running}
    end_s, longest_s = time.monotonic() + 60 * minutes, 0.0
    steps = (coarse_trials, lambda trials: refining_trials(trials, _records(trials)))
    for step in steps:
        for size in step(plan.trials):
            batch = [trial for trial in size if trial.folder in to_run]
            started_s = time.monotonic()
            # The next size is rarely shorter than those before it.
            if batch and started_s + longest_s > end_s:
                print(f"map.minutes={minutes:g}: time is up; run again to continue", flush=True)
                return
            if batch:
                yield batch
            longest_s = max(longest_s, time.monotonic() - started_s)


def _records(trials: Sequence[PlannedTrial]) -> list[Found]:
    """The records of those trials that have one."""
    from bench.records.reading import read_one

    found = []
    for trial in trials:
        # A damaged one is named by the report, at the end.
        with suppress(BadRecord):
            found.append(read_one(trial.folder / RECORD_NAME))
    return found


def _launch(trials: Sequence[PlannedTrial], batches: Iterator[Sequence[PlannedTrial]]) -> Summary:
    """Run `batches` of `trials` on this machine, one after the other.

    Each record is mirrored as soon as nothing is being measured.
    """
    # Imported here: a plan, and a run in which everything is done, start faster without them.
    from bench.launch.devices import Machine
    from bench.launch.local import run_trials
    from bench.launch.outcome import Summary
    from bench.meters.time.replicas import servers_of_a_run
    from bench.publish.mirror import Mirror, PublishWarning

    try:
        machine = Machine.detect()
    except OSError as error:
        raise Unwritable(f"cannot lock a device: {error}; its owner must remove it") from error
    # wandb.mode and wandb.project are settings like any other and may be swept.
    targets = {
        trial.folder.resolve(): (trial.config["wandb"]["mode"], trial.config["wandb"]["project"])
        for trial in trials
    }
    summary = Summary()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # Printed at the end instead, where the progress display does not overwrite them.
        warnings.simplefilter("ignore", PublishWarning)
        mirrors = {target: stack.enter_context(Mirror(*target)) for target in set(targets.values())}

        def mirror(folder: Path) -> None:
            mirrors[targets[folder.resolve()]].send(folder)

        processes = max(trial.config["measure"]["processes"] for trial in trials)
        if processes >= MIN_PROCESSES:
            # They import torch while the first trial trains, and serve every trial of this run.
            stack.enter_context(servers_of_a_run(processes))
        for batch in batches:
            with _as_unwritable():
                folders = write_trials(batch)
            part = run_trials(folders, machine=machine, after_record=mirror)
            summary.outcomes += part.outcomes
            summary.num_left += part.num_left
            if part.interrupted:
                break
    for problem in (problem for each in mirrors.values() for problem in each.problems):
        print(printable(f"not mirrored: {problem}"), file=sys.stderr)
    return summary


def report(plan: Plan) -> None:
    """Write and print the report of each experiment in the plan.

    Raises Unreadable, after the last report, where it lacks a record of the plan.
    """
    from bench.report import NoRecords, build

    # A dict keeps the order of the plan without duplicates.
    places = {Path(t.config["results"]) / t.labels.experiment: None for t in plan.trials}
    planned = tuple(f"{trial.folder / RECORD_NAME}: " for trial in plan.trials)
    missed: list[str] = []
    for place in places:
        try:
            with _as_unwritable():
                made = build([place])
        except NoRecords as error:
            missed.append(f"no report: {error}")
            continue
        print(made.text)
        # The report covers the whole folder: records of other runs are named but no error.
        missed += [problem for problem in made.problems if problem.startswith(planned)]
        for problem in (problem for problem in made.problems if problem not in missed):
            print(printable(f"left out: {problem}"), file=sys.stderr)
        print("report:", *made.paths, flush=True)
    if missed:
        raise Unreadable("\n".join(f"{problem}; {MOVE_IT}" for problem in missed))


@contextmanager
def _as_unwritable() -> Iterator[None]:
    """Turn an OSError of the block into Unwritable with its path and a remedy."""
    try:
        yield
    except OSError as error:
        what = f"cannot write {error.filename}: {error.strerror or error}"
        raise Unwritable(f"{what}; choose another folder with results=PATH") from error
