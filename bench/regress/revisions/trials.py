"""What a night does with one trial: control, measure, try once more; its rows enter the verdict."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from bench.launch.devices import Machine
from bench.regress.comparable import environment_differences
from bench.regress.revisions.deadline import Deadline, OutOfTime
from bench.regress.revisions.partner import WorkerFailed
from bench.regress.revisions.seeds import judge_quality
from bench.regress.revisions.turns import (
    CANARY,
    Content,
    Pair,
    Seen,
    Told,
    Turn,
    judge_turn,
    qualities,
)
from bench.regress.revisions.worktrees import Revision
from bench.regress.sides import BadInput, Cell
from bench.regress.verdict import Row, Verdict

POLL_S = 1.0
Say = Callable[[str], None]
Got = TypeVar("Got")


@dataclass
class Night:
    """One comparison of two revisions while it runs."""

    old: Revision
    new: Revision
    scratch: Path
    machine: Machine
    say: Say
    verdict: Verdict
    deadline: Deadline
    told: dict[tuple[str, ...], list[tuple[Turn, Told]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # per model, one entry a seed


class FailedTwice(Exception):
    """Both tries of one measurement ended in a failing worker; the message is the second's."""

    def __init__(self, failures: Sequence[WorkerFailed]) -> None:
        super().__init__(str(failures[-1]))
        self.revisions = [failure.revision for failure in failures]

    def by(self, revision: Revision) -> bool:
        """Whether it was this revision that failed, both times."""
        return all(each is revision for each in self.revisions)


def controlled(night: Night, plan: dict[Cell, Content]) -> list[Cell]:
    """The A/A arm, the baseline against itself in two processes; the trials to go on with.

    On the first trial that the baseline can do; those that fail twice are not comparable. Nothing
    to go on with where the arm is not equal. Raises BadInput where all fail.
    """
    failed: dict[Cell, FailedTwice] = {}
    rows: list[Row] = []
    for cell, content in plan.items():
        night.say(f"A/A control: {cell}")
        try:
            rows = _control_rows(night, cell, content)
        except FailedTwice as error:
            failed[cell] = error
        except OutOfTime as error:
            rows = [Row(str(cell), "time", "inconclusive", reason=str(error))]
        if rows:
            break
    if len(failed) == len(plan):
        first = next(iter(failed.values()))
        raise BadInput(f"a trial of the baseline fails: {first}") from first
    for cell, failure in failed.items():
        _add_failure(night, str(cell), "trial", failure)
    if not rows:
        night.verdict.notes.append("the baseline supports none of the trials: no control")
    night.verdict.controls += [replace(r, metric=f"A/A control, {r.metric}") for r in rows]
    equal = bool(rows) and all(row.judgement == "equal" for row in rows)
    if rows and not equal:
        night.verdict.notes.append("the A/A control is not equal: nothing else was measured")
    return [cell for cell in plan if cell not in failed] if equal else []


def _control_rows(night: Night, cell: Cell, content: Content) -> list[Row]:
    def measured() -> list[Row]:
        with device(night, content) as variables:
            pair = (night.old, night.old)
            return judge_turn(_turn(night, cell, pair, (content, content), variables)).rows

    return _twice(night, f"A/A control, {cell}", measured)


def one_trial(night: Night, cell: Cell, contents: tuple[Content, Content]) -> None:
    """One trial in turns; its rows go into the verdict. A worker that fails has two tries."""
    verdict = night.verdict
    try:
        turn, seen = _twice(night, str(cell), lambda: _seen(night, cell, contents))
    except FailedTwice as error:
        _add_failure(night, str(cell), "trial", error)
        return
    except OutOfTime as error:
        verdict.rows.append(Row(str(cell), "trial", "inconclusive", reason=str(error)))
        return
    for row in seen.rows:
        if row.metric == f"time {CANARY}":
            verdict.canary = replace(row, metric="canary, candidate's process / baseline's")
            verdict.canary_s = row.candidate
        else:
            verdict.rows.append(row)
            night.say(f"  {row.metric}: {row.judgement}")
    verdict.changes += seen.changes
    if all("skipped" in told for told in seen.told):
        why = seen.told[1]["skipped"]
        verdict.notes.append(f"{cell}: skipped on both sides ({why})")
    if all("quality" in told for told in seen.told):
        _hold_together(night, cell, turn, seen.told)


def _hold_together(night: Night, cell: Cell, turn: Turn, told: Told) -> None:
    """What both sides say of themselves: keep it for quality, unless it means something else."""
    # An older revision says less of its environment: what only one side says is not compared.
    environments = [side["environment"] for side in told]
    both = environments[0].keys() & environments[1].keys()
    found = environment_differences(*({key: each[key] for key in both} for each in environments))
    for name in ("quality_unit", "direction"):
        if told[0][name] != told[1][name]:
            found.append(f"{cell}: {name} {told[0][name]} -> {told[1][name]}")
            break
    else:
        night.told[cell.model].append((turn, told))
    verdict = night.verdict
    verdict.differences += [each for each in found if each not in verdict.differences]


def quality(night: Night, model: str, told: Sequence[tuple[Turn, Told]]) -> None:
    """The row of one model's quality, with more seeds where one differs."""
    turn = told[0][0]

    def more(seeds: Sequence[int]) -> list[Pair]:
        def trained() -> list[Pair]:
            with device(night, turn.contents[0]) as variables:
                return qualities(replace(turn, variables=variables), seeds)

        night.say(f"{model}: quality differs, more seeds")
        return _twice(night, f"{model}, other seeds", trained)

    try:
        night.verdict.rows.append(judge_quality(model, told, more))
    except FailedTwice as error:
        _add_failure(night, model, "quality", error)
    except OutOfTime as error:
        row = Row(model, "quality", "inconclusive", reason=f"differs; {error}")
        night.verdict.rows.append(row)


def _twice(night: Night, name: str, measured: Callable[[], Got]) -> Got:
    """What `measured` gives, if a worker fails in the second of two tries. Raises FailedTwice."""
    failures: list[WorkerFailed] = []
    while True:
        try:
            got = measured()
        except WorkerFailed as error:
            failures.append(error)
            if len(failures) == 2:
                raise FailedTwice(failures) from error
            night.say("  fails; once more")
            continue
        if failures:
            first = failures[0]
            night.verdict.notes.append(f"{name}: failed once and worked in the rerun: {first}")
        return got


def _add_failure(night: Night, name: str, metric: str, error: FailedTwice) -> None:
    """A candidate that fails twice is regressed; against a baseline that does nothing is held."""
    verdict = night.verdict
    if error.by(night.old):
        verdict.differences.append(f"{name}: a trial of the baseline fails: {error}")
    elif error.by(night.new):
        verdict.rows.append(Row(name, metric, "regressed", reason=f"fails: {error}"))
    else:
        reason = f"each revision failed once: {error}"
        verdict.rows.append(Row(name, metric, "inconclusive", reason=reason))


def _seen(night: Night, cell: Cell, contents: tuple[Content, Content]) -> tuple[Turn, Seen]:
    """The trial measured in turns; the canary with the first that has times."""
    with device(night, contents[0]) as variables:
        turn = _turn(night, cell, (night.old, night.new), contents, variables)
        return turn, judge_turn(turn, canary=night.verdict.canary is None)


def _turn(
    night: Night,
    cell: Cell,
    revisions: tuple[Revision, Revision],
    contents: tuple[Content, Content],
    variables: dict[str, str],
) -> Turn:
    place = night.scratch / "trials"
    return Turn(str(cell), revisions, contents, place, variables, night.deadline)


@contextmanager
def device(night: Night, content: Content) -> Iterator[dict[str, str]]:
    """The trial's device for ourselves, as `condbench run` would take it; its variables."""
    night.deadline.check()
    gpu = content["config"]["gpu"]
    choices = night.machine.choices(gpu["kind"], gpu["device"])
    waited = False
    while (claim := night.machine.claim(choices)) is None:
        if not waited:
            night.say(f"  waiting for {night.machine.holders(choices)}")
        waited = True
        night.deadline.check()
        time.sleep(POLL_S)
    try:
        claim.sign("condbench compare --rev")
        yield claim.variables
    finally:
        claim.release()
