"""`condbench run`: plan, run what is missing, mirror it, report.

    plan -> state of each trial -> trial.json of those that run -> launch -> report

What is done is not run again, and the run says why. A trial that fails is shown and stops nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config import INTERVAL_ROUNDS
from bench.plan.matrix import Plan, make_plan
from bench.plan.planned import PlannedTrial
from bench.plan.staleness import MOVE_IT, Foreign, State, judge, write_trials
from bench.records import environment
from bench.records.record import LOG_NAME, RECORD_NAME
from bench.records.redaction import printable, printable_lines

if TYPE_CHECKING:
    from bench.launch.outcome import Summary

INTERRUPTED = 130  # what shells expect after Ctrl-C
LOGS_SHOWN = 3
SHOWN = 10  # lines about one kind of trial, in a run


class Unwritable(Exception):
    """Results or device locks cannot be written; the message names the path and the cause."""


class Unreadable(Exception):
    """A record that the plan counts on, or all of them, cannot be read; the message names it."""


def run(overrides: Sequence[str], *, plan_only: bool) -> int:
    """Run what `overrides` ask for; the exit code.

    Raises PlanError, Foreign, Unwritable and Unreadable: what is wrong, where, and the way out.
    """
    plan = make_plan(overrides)
    for line in plan.left_out:
        print(printable_lines(f"left out: {line}"), file=sys.stderr)
    states = judge(plan.trials, plan.retries)
    print(headline(plan, states), flush=True)
    if plan_only:
        print("\n".join([*listing(plan.trials, states), *_notes(plan.trials)]))
        return 0
    _refuse_to_overwrite(states)
    running = [t for t, state in zip(plan.trials, states, strict=True) if state.runs]
    for line in (*_why(plan.trials, states), *_notes(plan.trials)):
        print(line, flush=True)
    summary = _launch(running) if running else None
    if summary is not None and summary.interrupted:
        return INTERRUPTED
    report(plan)
    outcomes = _outcomes(plan.trials, states, summary)
    failed = [folder for folder, status in outcomes.items() if status == "failed"]
    if failed:
        print("\n".join(_ending(Counter(outcomes.values()), failed)))
    return 1 if failed or plan.left_out else 0


def _outcomes(
    trials: Sequence[PlannedTrial], states: Sequence[State], summary: Summary | None
) -> dict[Path, str]:
    """Each trial's folder and its record's status, now or from before."""
    ended = {one.folder.resolve(): one.status for one in summary.outcomes} if summary else {}
    return {
        trial.folder: ended.get(trial.folder.resolve(), state.why or state.kind)
        for trial, state in zip(trials, states, strict=True)
    }


def _ending(counts: Counter[str], failed: Sequence[Path]) -> Iterator[str]:
    """How many trials ended how, and where the first failures' logs are."""
    numbers = ", ".join(f"{counts[status]} {status}" for status in ("ok", "failed", "skipped"))
    yield f"{numbers}; why, in full:"
    yield from (f"  {folder / LOG_NAME}" for folder in failed[:LOGS_SHOWN])
    if len(failed) > LOGS_SHOWN:
        yield f"  and {len(failed) - LOGS_SHOWN} more"


def headline(plan: Plan, states: Sequence[State]) -> str:
    """ "quickstart: 14 trials: 12 done, 2 to do"."""
    names = ", ".join(sorted({trial.labels.experiment for trial in plan.trials}))
    counts = Counter(state.kind for state in states)
    parts = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{names}: {len(states)} trial{'s' if len(states) > 1 else ''}: {parts}"


def listing(trials: Sequence[PlannedTrial], states: Sequence[State]) -> Iterator[str]:
    """One line per trial: its state, what it is, and why."""
    for trial, state in zip(trials, states, strict=True):
        why = f": {state.why}" if state.why else ""
        yield printable(f"  {state.kind:<10} {title(trial)}{why}")


def title(trial: PlannedTrial) -> str:
    """The folder's last parts: task/backbone/method,variant/seed-key."""
    return "/".join(trial.folder.parts[-4:])


def _why(trials: Sequence[PlannedTrial], states: Sequence[State]) -> Iterator[str]:
    """What a person may wonder about before the trials start: why one runs again, or does not."""
    counts = Counter(state.kind for state in states)
    if counts["done"]:
        yield (
            f"{counts['done']} not run again: a record with the same configuration, code, "
            "versions, hardware and data is there"
        )
    if counts["failed"]:
        yield f"{counts['failed']} failed before and stay so; retry=failed runs them again"
    odd = [
        line
        for line, state in zip(listing(trials, states), states, strict=True)
        if state.kind in ("stale", "again")
    ]
    yield from odd[:SHOWN]
    if len(odd) > SHOWN:
        yield f"  and {len(odd) - SHOWN} more (--plan lists them)"


def _notes(trials: Sequence[PlannedTrial]) -> Iterator[str]:
    """What a person would rather know before hours of training."""
    few = min(trial.config["measure"]["rounds"] for trial in trials)
    if few < INTERVAL_ROUNDS:
        yield (
            f"note: measure.rounds={few}: no speed-up gets a 95 % interval below "
            f"{INTERVAL_ROUNDS} rounds"
        )
    if all(trial.labels.device == "cpu" for trial in trials) and environment.gpus():
        yield "note: this machine has an NVIDIA GPU, which gpu=one would use"


def _refuse_to_overwrite(states: Sequence[State]) -> None:
    found = [state.why for state in states if state.kind == "in the way"]
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise Foreign("\n".join([*found[:SHOWN], *more]))


def _launch(trials: Sequence[PlannedTrial]) -> Summary:
    from bench.launch.devices import Machine
    from bench.launch.local import run_trials
    from bench.publish.mirror import Mirror, PublishWarning

    try:
        machine = Machine.detect()
    except OSError as error:
        raise Unwritable(
            f"no device can be locked: {error}; remove it, or ask its owner"
        ) from error
    with _writing():
        folders = write_trials(trials)
    wishes = {
        folder.resolve(): (trial.config["wandb"]["mode"], trial.config["wandb"]["project"])
        for folder, trial in zip(folders, trials, strict=True)
    }
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", PublishWarning)  # said at the end, not amid the progress
        mirrors = {wish: stack.enter_context(Mirror(*wish)) for wish in set(wishes.values())}

        def mirror(folder: Path) -> None:
            mirrors[wishes[folder.resolve()]].send(folder)

        summary = run_trials(folders, machine=machine, after_record=mirror)
    for problem in (problem for each in mirrors.values() for problem in each.problems):
        print(printable(f"not mirrored: {problem}"), file=sys.stderr)
    return summary


def report(plan: Plan) -> None:
    """Write and show the report of each experiment in the plan.

    Raises Unreadable in the end where a record of the plan was left out of it.
    """
    from bench.report import NothingToReport, build

    places = {Path(t.config["results"]) / t.labels.experiment: None for t in plan.trials}
    planned = tuple(f"{trial.folder / RECORD_NAME}: " for trial in plan.trials)
    missed: list[str] = []
    for place in places:
        try:
            with _writing():
                made = build([place])
        except NothingToReport as error:
            missed.append(f"no report: {error}")
            continue
        print(made.text)
        missed += [problem for problem in made.problems if problem.startswith(planned)]
        for problem in (problem for problem in made.problems if problem not in missed):
            print(printable(f"left out: {problem}"), file=sys.stderr)
        print("report:", *made.paths, flush=True)
    if missed:
        raise Unreadable("\n".join(f"{problem}; {MOVE_IT}" for problem in missed))


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write {error.filename}: {error.strerror or error}"
        raise Unwritable(f"{what}; results=PATH chooses another place") from error
