"""Two revisions compared on this machine: every trial in turns, with an A/A arm and a canary."""

from __future__ import annotations

import math
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bench.launch.devices import Machine, NoSuchDevice
from bench.records.scratch import Scratch
from bench.regress.causes import COUNTS, cause_between_revisions
from bench.regress.cells import Cell, model_name
from bench.regress.checkouts.planned_trials import Content, hardware_of, plan_trials
from bench.regress.checkouts.worktrees import Revision, checked_out, uncommitted
from bench.regress.comparable import identity_differences
from bench.regress.revisions.deadline import Deadline
from bench.regress.revisions.machine_noise import try_machine
from bench.regress.revisions.night import Night, ReportProgress
from bench.regress.revisions.trial_pair import OtherProtocol
from bench.regress.revisions.trials import (
    enter_controls,
    measure_quality,
    measure_trial,
    run_control,
)
from bench.regress.verdict import BadInput, Row, Verdict

NO_LIMITS: Mapping[str, float] = MappingProxyType({})


def compare_revisions(
    repository: Path,
    baseline: str,
    candidate: str,
    overrides: Sequence[str],
    *,
    machine: Machine | None = None,
    report_progress: ReportProgress = lambda line: None,
    limits_s: Mapping[str, float] = NO_LIMITS,
) -> Verdict:
    """The verdict on revision `candidate` against `baseline`, over the trials of `overrides`.

    Both are checked out, plan their trials and take turns on this machine, for at most `limits_s`
    of the kind of device that they plan for; what is not measured by then is inconclusive. Raises
    BadInput for revisions that cannot be checked out or planned, a device that is not here, and a
    baseline whose trials all fail.
    """
    started_s = time.monotonic()  # the limit includes checkouts and installations
    machine = machine or Machine.detect()
    with (
        _sigterm_as_interrupt(),
        Scratch() as scratch,  # before the worktrees: git forgets those of a night that was killed
        checked_out(repository, [baseline, candidate], scratch) as (old, new),
    ):
        # Each by its own code: what a revision measures by default is part of the revision.
        plans = [plan_trials(revision, overrides, scratch) for revision in (old, new)]
        verdict = Verdict(str(old), str(new), hardware_of(plans[0]), confirmed=True)
        verdict.commands = [_command(old, new, overrides)]
        verdict.notes += uncommitted(repository)
        kind = next(iter(plans[0].values()))["config"]["gpu"]["kind"]
        deadline = Deadline(limits_s.get(kind, math.inf), started_s)
        exact = any(text.partition("=")[0].lstrip("+") == "measure.rounds" for text in overrides)
        night = Night(old, new, scratch, machine, report_progress, verdict, deadline, exact)
        try:
            _run(night, plans[0], plans[1])
        # Rows that were measured before stay in the verdict.
        except OtherProtocol as error:
            verdict.differences.append(str(error))
        except NoSuchDevice as error:
            raise BadInput(str(error)) from error
    verdict.withhold_times()
    verdict.rows = [_with_cause(row, verdict) for row in verdict.rows]
    verdict.notes.append(f"took {deadline}")
    return verdict


def _with_cause(row: Row, verdict: Verdict) -> Row:
    """The row with its probable cause; changed counts of its trials point to code."""
    # A quality row names the model, its counts' lines name model/seed.
    starts = (f"{row.model} ", f"{row.model}/")
    changes = [line for line in verdict.changes if line.startswith(starts)]
    changes += [
        f"{each.metric} {each.reason}"
        for each in verdict.rows
        if each.metric in COUNTS and f"{each.model} ".startswith(starts)
    ]
    return replace(row, cause=cause_between_revisions(row, changes))


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, with which CI ends a job, clean up as Ctrl-C does: worktrees and workers end."""
    # Python sets signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _command(old: Revision, new: Revision, overrides: Sequence[str]) -> str:
    # Commits, not names: HEAD is another commit tomorrow.
    command = ["condbench", "compare", "--rev", old.commit[:12], new.commit[:12]]
    return shlex.join([*command, *overrides])


def _run(night: Night, old: dict[Cell, Content], new: dict[Cell, Content]) -> None:
    """Control, trials, qualities: everything that is measured, into the night's verdict."""
    verdict = night.verdict
    shared = [cell for cell in old if cell in new]
    if not shared:
        verdict.differences.append("the two revisions plan no trial in common")
        return
    same = [cell for cell in shared if _is_comparable(night, cell, old[cell], new[cell])]
    # A trial that is gone might have regressed: inconclusive. A new one has no baseline: a note.
    verdict.rows += [_missing_row(cell) for cell in old if cell not in new]
    verdict.notes += [f"{cell}: only in the candidate" for cell in new if cell not in old]
    if not same:
        return
    # Before the control, for which a model is trained first.
    hopeless = try_machine(night, same[0], old[same[0]])
    if hopeless:
        enter_controls(night, [hopeless])
    cells = same if hopeless else run_control(night, {cell: old[cell] for cell in same})
    for number, cell in enumerate(cells, start=1):
        night.report_progress(f"[{number}/{len(cells)}] {cell} ({night.deadline})")
        measure_trial(night, cell, (old[cell], new[cell]))
    # After all trials: a model's quality is judged over the seeds of all of them.
    for model, trained in night.trained.items():
        measure_quality(night, model_name(model), trained)


def _missing_row(cell: Cell) -> Row:
    reason = "the candidate plans no such trial"
    return Row(str(cell), "trial", "inconclusive", reason=reason)


def _is_comparable(night: Night, cell: Cell, old: Content, new: Content) -> bool:
    """Whether the planned identities differ in code only; differences enter the verdict."""
    found = identity_differences(old["identity"], new["identity"])
    night.verdict.differences += [f"{cell}: {each}" for each in found]
    return not found
