"""Two revisions compared on this machine: every trial in turns, with an A/A arm and a canary."""

from __future__ import annotations

import shlex
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.compare.comparable import environment_differences, identity_differences
from bench.compare.sides import BadInput, Cell, model_name
from bench.compare.verdict import Row, Verdict
from bench.launch.devices import Machine, NoSuchDevice
from bench.nightly.partner import WorkerFailed
from bench.nightly.plans import hardware_of, planned
from bench.nightly.revisions import Revision, checked_out, uncommitted
from bench.nightly.seeds import judge_quality
from bench.nightly.turns import (
    CANARY,
    Content,
    OtherProtocol,
    Pair,
    Seen,
    Told,
    Turn,
    judge_turn,
    qualities,
)

POLL_S = 1.0
Say = Callable[[str], None]


@dataclass
class Night:
    """One comparison of two revisions while it runs."""

    old: Revision
    new: Revision
    scratch: Path
    machine: Machine
    say: Say
    verdict: Verdict
    told: dict[tuple[str, ...], list[tuple[Turn, Told]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # per model, one entry a seed


def compare_revisions(
    repository: Path,
    baseline: str,
    candidate: str,
    overrides: Sequence[str],
    *,
    machine: Machine | None = None,
    say: Say = lambda line: None,
) -> Verdict:
    """The verdict on revision `candidate` against `baseline`, over the trials of `overrides`.

    Both are checked out, plan their trials and take turns on this machine. Raises BadInput for
    revisions that cannot be checked out or planned, a device that is not here, and a baseline whose
    trials fail.
    """
    machine = machine or Machine.observed()
    with (
        _ended_in_order(),
        tempfile.TemporaryDirectory(prefix="condbench-") as scratch,
        checked_out(repository, [baseline, candidate], Path(scratch)) as (old, new),
    ):
        plans = [planned(rev, overrides, Path(scratch)) for rev in (old, new)]
        verdict = Verdict(str(old), str(new), hardware_of(plans[0]), confirmed=True)
        verdict.commands = [_command(old, new, overrides)]
        verdict.notes += uncommitted(repository)
        night = Night(old, new, Path(scratch), machine, say, verdict)
        try:
            _run(night, plans[0], plans[1])
        except OtherProtocol as error:
            verdict.differences.append(str(error))
        except NoSuchDevice as error:
            raise BadInput(str(error)) from error
    return verdict


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM, with which CI ends a job, clean up like Ctrl-C: worktrees and workers go."""
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
    command = ["condbench", "compare", "--rev", old.commit[:12], new.commit[:12]]
    return shlex.join([*command, *overrides])


def _run(night: Night, old: dict[Cell, Content], new: dict[Cell, Content]) -> None:
    verdict = night.verdict
    shared = [cell for cell in old if cell in new]
    if not shared:
        verdict.differences.append("the two revisions plan no trial in common")
        return
    same = [cell for cell in shared if _comparable(night, cell, old[cell], new[cell])]
    for cell in old:
        if cell not in new:
            row = Row(
                str(cell), "trial", "inconclusive", reason="the candidate plans no such trial"
            )
            verdict.rows.append(row)
    verdict.notes += [f"{cell}: only in the candidate" for cell in new if cell not in old]
    if not same:
        return
    if not _controlled(night, {cell: old[cell] for cell in same}):
        return
    for number, cell in enumerate(same, start=1):
        night.say(f"[{number}/{len(same)}] {cell}")
        _one(night, cell, (old[cell], new[cell]))
    for model, told in night.told.items():
        verdict.rows.append(_quality(night, model_name(model), told))


def _comparable(night: Night, cell: Cell, old: Content, new: Content) -> bool:
    found = identity_differences(old["identity"], new["identity"])
    night.verdict.differences += [f"{cell}: {each}" for each in found]
    return not found


def _controlled(night: Night, plan: dict[Cell, Content]) -> bool:
    """The A/A arm: the baseline against itself in two processes. Whether it came out equal.

    On the first trial that the baseline does not answer with Unsupported.
    """
    rows: list[Row] = []
    for cell, content in plan.items():
        night.say(f"A/A control: {cell}")
        try:
            with _device(night, content) as variables:
                turn = _turn(night, cell, (night.old, night.old), (content, content), variables)
                rows = judge_turn(turn).rows
        except WorkerFailed as error:
            _refuse_baseline(night, error)
        if rows:
            break
    else:
        night.verdict.notes.append("the baseline supports none of the trials: no control")
        return False
    for row in rows:
        night.verdict.controls.append(_control(row, f"A/A control, {row.metric}"))
    equal = all(row.judgement == "equal" for row in rows)
    if not equal:
        night.verdict.notes.append("the A/A control is not equal: nothing else was measured")
    return equal


def _control(row: Row, metric: str) -> Row:
    """A judged row as a control: what it measured is the machine, so it has no cause."""
    return replace(row, metric=metric, cause=None)


def _refuse_baseline(night: Night, error: WorkerFailed) -> None:
    """Raise BadInput where it was the baseline that failed: nothing can be held against it."""
    if error.revision is night.old:
        raise BadInput(f"a trial of the baseline fails: {error}") from error


def _one(night: Night, cell: Cell, contents: tuple[Content, Content]) -> None:
    """One trial in turns; its rows go into the verdict. A candidate that fails has two tries."""
    verdict = night.verdict
    try:
        try:
            turn, seen = _seen(night, cell, contents)
        except WorkerFailed as error:
            _refuse_baseline(night, error)
            night.say("  fails; once more")
            turn, seen = _seen(night, cell, contents)
            verdict.notes.append(f"{cell}: failed once and worked in the rerun: {error}")
    except WorkerFailed as error:
        _refuse_baseline(night, error)
        verdict.rows.append(Row(str(cell), "trial", "regressed", reason=f"fails: {error}"))
        return
    for row in seen.rows:
        if row.metric == f"time {CANARY}":
            verdict.canary = _control(row, "canary, candidate's process / baseline's")
            verdict.canary_s = row.candidate
        else:
            verdict.rows.append(row)
            night.say(f"  {row.metric}: {row.judgement}")
    verdict.changes += seen.changes
    if all("quality" in told for told in seen.told):
        night.told[cell.model].append((turn, seen.told))
        found = environment_differences(*(told["environment"] for told in seen.told))
        verdict.differences += [each for each in found if each not in verdict.differences]


def _seen(night: Night, cell: Cell, contents: tuple[Content, Content]) -> tuple[Turn, Seen]:
    """The trial measured in turns; the canary with the first that has times."""
    with _device(night, contents[0]) as variables:
        turn = _turn(night, cell, (night.old, night.new), contents, variables)
        return turn, judge_turn(turn, canary=night.verdict.canary is None)


def _quality(night: Night, model: str, told: Sequence[tuple[Turn, Told]]) -> Row:
    turn = told[0][0]

    def more(seeds: Sequence[int]) -> list[Pair]:
        night.say(f"{model}: quality differs, more seeds")
        with _device(night, turn.contents[0]) as variables:
            return qualities(replace(turn, variables=variables), seeds)

    try:
        return judge_quality(model, told, more)
    except WorkerFailed as error:
        _refuse_baseline(night, error)
        return Row(model, "quality", "regressed", reason=f"fails with another seed: {error}")


def _turn(
    night: Night,
    cell: Cell,
    revisions: tuple[Revision, Revision],
    contents: tuple[Content, Content],
    variables: dict[str, str],
) -> Turn:
    return Turn(str(cell), revisions, contents, night.scratch / "trials", variables)


@contextmanager
def _device(night: Night, content: Content) -> Iterator[dict[str, str]]:
    """The trial's device for ourselves, as `condbench run` would take it; its variables."""
    gpu = content["config"]["gpu"]
    choices = night.machine.choices(gpu["kind"], gpu["device"])
    waited = False
    while (claim := night.machine.claim(choices)) is None:
        if not waited:
            night.say(f"  waiting for {night.machine.holders(choices)}")
        waited = True
        time.sleep(POLL_S)
    try:
        claim.sign("condbench compare --rev")
        yield claim.variables
    finally:
        claim.release()
