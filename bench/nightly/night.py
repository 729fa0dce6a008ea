"""Two revisions compared on this machine: every trial in turns, with an A/A arm and a canary."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.compare.comparable import environment_differences, identity_differences
from bench.compare.gate import QUALITY
from bench.compare.quality import quality_row
from bench.compare.sides import BadInput, Cell, model_name
from bench.compare.verdict import Row, Verdict
from bench.launch.devices import Machine, NoSuchDevice
from bench.nightly.partner import WorkerFailed
from bench.nightly.revisions import Revision, checked_out
from bench.nightly.turns import (
    CANARY,
    Content,
    OtherProtocol,
    Seen,
    Told,
    Turn,
    judge_turn,
    qualities,
)

PLANNING = "bench.nightly.planning"
POLL_S = 1.0
NUM_SEEDS = 5  # whose qualities are compared where one seed's differ
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
        plans = [_planned(rev, overrides, Path(scratch)) for rev in (old, new)]
        verdict = Verdict(str(old), str(new), _hardware(plans[0]), confirmed=True)
        verdict.commands = [_command(old, new, overrides)]
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
    revisions = f"{old.commit[:12]} {new.commit[:12]}"
    return " ".join(["condbench compare --rev", revisions, *overrides])


def _planned(revision: Revision, overrides: Sequence[str], scratch: Path) -> dict[Cell, Content]:
    """The trials that a revision plans, results below `scratch`."""
    results = scratch / f"results-{revision.folder.name}"
    arguments = [*overrides, f"results={results}", "wandb.mode=disabled"]
    command = [revision.python, "-m", PLANNING, *arguments]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=revision.folder, env=revision.environment
    )
    if run.returncode:
        raise BadInput(f"{revision} cannot plan {' '.join(overrides)}: {run.stderr.strip()[-800:]}")
    told = json.loads(run.stdout)
    if told["left_out"]:
        raise BadInput(f"{revision}: {told['left_out'][0]}")
    return {_cell(content["labels"]): content for content in told["trials"]}


def _cell(labels: dict[str, Any]) -> Cell:
    return Cell(*(labels[name] for name in Cell._fields))


def _hardware(plan: dict[Cell, Content]) -> str:
    return str(next(iter(plan.values()))["labels"]["hardware"])


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
    if not _controlled(night, same[0], old[same[0]]):
        return
    for number, cell in enumerate(same, start=1):
        night.say(f"[{number}/{len(same)}] {cell}")
        _one(night, cell, (old[cell], new[cell]), first=number == 1)
    for model, told in night.told.items():
        verdict.rows.append(_quality(night, model_name(model), told))


def _comparable(night: Night, cell: Cell, old: Content, new: Content) -> bool:
    found = identity_differences(old["identity"], new["identity"])
    night.verdict.differences += [f"{cell}: {each}" for each in found]
    return not found


def _controlled(night: Night, cell: Cell, content: Content) -> bool:
    """The A/A arm: the baseline against itself in two processes. Whether it came out equal."""
    night.say(f"A/A control: {cell}")
    with _device(night, content) as variables:
        turn = _turn(night, cell, (night.old, night.old), (content, content), variables)
        rows = _baseline_works(lambda: judge_turn(turn), night.old).rows
    for row in rows:
        night.verdict.controls.append(_control(row, f"A/A control, {row.metric}"))
    equal = all(row.judgement == "equal" for row in rows)
    if not equal:
        night.verdict.notes.append("the A/A control is not equal: nothing else was measured")
    return equal


def _control(row: Row, metric: str) -> Row:
    """A judged row as a control: what it measured is the machine, so it has no cause."""
    return replace(row, metric=metric, cause=None)


def _baseline_works(measure: Callable[[], Seen], old: Revision) -> Seen:
    try:
        return measure()
    except WorkerFailed as error:
        raise BadInput(f"a trial of the baseline fails: {error}") from error


def _one(night: Night, cell: Cell, contents: tuple[Content, Content], *, first: bool) -> None:
    """One trial in turns; its rows go into the verdict."""
    verdict = night.verdict
    try:
        with _device(night, contents[0]) as variables:
            turn = _turn(night, cell, (night.old, night.new), contents, variables)
            seen = judge_turn(turn, canary=first)
    except WorkerFailed as error:
        if error.revision is night.old:
            raise BadInput(f"a trial of the baseline fails: {error}") from error
        verdict.rows.append(Row(str(cell), "trial", "regressed", reason=f"fails: {error}"))
        return
    for row in seen.rows:
        if row.metric == f"time {CANARY}":
            verdict.canary = _control(row, "canary, candidate's process / baseline's")
        else:
            verdict.rows.append(row)
            night.say(f"  {row.metric}: {row.judgement}")
    verdict.changes += seen.changes
    if all("quality" in told for told in seen.told):
        night.told[cell.model].append((turn, seen.told))
        verdict.canary_s = verdict.canary_s or seen.told[1]["canary_s"]
        found = environment_differences(*(told["environment"] for told in seen.told))
        verdict.differences += [each for each in found if each not in verdict.differences]


def _quality(night: Night, model: str, told: Sequence[tuple[Turn, Told]]) -> Row:
    """Quality by paired seeds. Where it differs, seeds are added as rounds are, up to five."""
    pairs = [(old["quality"], new["quality"]) for _, (old, new) in told]
    if any(old != new for old, new in pairs) and len(pairs) < NUM_SEEDS:
        turn = told[0][0]
        used = {turn.contents[0]["config"]["seed"] for turn, _ in told}
        seeds = [seed for seed in range(2 * NUM_SEEDS) if seed not in used]
        night.say(f"{model}: quality differs, more seeds")
        with _device(night, turn.contents[0]) as variables:
            again = replace(turn, variables=variables)
            pairs += qualities(again, seeds[: NUM_SEEDS - len(pairs)])
    old, new = ([pair[which] for pair in pairs] for which in range(2))
    if None in old or None in new:
        reason = "quality is not a finite number"
        return Row(model, "quality", "inconclusive", QUALITY, reason=reason)
    last = told[0][1][1]
    return quality_row(model, old, new, last["direction"], last["quality_unit"])


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
