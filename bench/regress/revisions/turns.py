"""One trial of two revisions: opened on both sides, timed in turns, judged, rerun if suspected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from bench.regress.gate import (
    ENERGY,
    MAX_ROUNDS,
    TIME,
    Judged,
    Margins,
    confirm,
    decide,
    looks,
    mean_ratio,
)
from bench.regress.revisions.answers import PROTOCOL
from bench.regress.revisions.deadline import Deadline, OutOfTime
from bench.regress.revisions.lockstep import NoEnergy, Sides, Windows, open_both, warmed
from bench.regress.revisions.partner import Partner, write_trial
from bench.regress.revisions.worktrees import Revision
from bench.regress.verdict import Row

CANARY = "canary"
WINDOWS, MOST_WINDOWS = 5, 10  # energy windows a side: they last seconds each
UNSETTLED = "times never settled in the warm-up"
Content = Mapping[str, Any]  # a trial.json
Told = tuple[dict[str, Any], dict[str, Any]]  # what baseline and candidate say of themselves
Pair = tuple[float | None, float | None]  # quality of one seed: baseline, candidate


class OtherProtocol(Exception):
    """A revision whose worker speaks another protocol; the message names it."""


@dataclass(frozen=True)
class Turn:
    """The same trial on both sides: what is run, where, with which variables."""

    name: str  # digits/transformer/moe/seed0
    revisions: tuple[Revision, Revision]  # baseline, candidate
    contents: tuple[Content, Content]
    scratch: Path  # trial folders are made below it
    variables: Mapping[str, str] = field(default_factory=dict)  # which GPU
    deadline: Deadline = field(default_factory=Deadline)

    @property
    def measure(self) -> Mapping[str, Any]:
        """How carefully: the baseline's measure block; the candidate's is equal."""
        return dict(self.contents[0]["config"]["measure"])

    @property
    def works(self) -> list[str]:
        """What is timed: b1, b64, ..."""
        return [f"b{size}" for size in self.measure["batch_sizes"]]

    @property
    def largest(self) -> str:
        """The work of the largest batch."""
        return f"b{max(self.measure['batch_sizes'])}"

    @property
    def on_gpu(self) -> bool:
        return bool(self.contents[0]["config"]["gpu"]["kind"] != "cpu")

    def with_seed(self, seed: int) -> Turn:
        """The same trial with another seed, and another dense model to start from."""
        first, second = (_reseeded(content, seed) for content in self.contents)
        return replace(self, contents=(first, second))


@dataclass
class Seen:
    """What came of a turn: judged rows, what each side said of itself, counts that changed."""

    rows: list[Row]
    told: Told
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """One metric of a turn, and how it is measured."""

    metric: str
    margins: Margins
    measure: Callable[[Sides, Turn], Row]

    def answer(self, sides: Sides, turn: Turn) -> Row:
        """Its row before any rerun; inconclusive where the night's time ends before it."""
        try:
            return self.measure(sides, turn)
        except OutOfTime as error:
            return self.unanswered(turn, error)

    def again(self, turn: Turn) -> Row:
        """Its row in new processes, trained anew."""
        try:
            with _opened(turn) as (sides, _):
                return self.measure(sides, turn)
        except OutOfTime as error:
            return self.unanswered(turn, error)

    def unanswered(self, turn: Turn, error: OutOfTime) -> Row:
        """The row of what the night has no time for."""
        return Row(turn.name, self.metric, "inconclusive", self.margins, reason=str(error))


def judge_turn(turn: Turn, *, canary: bool = False) -> Seen:
    """Measure the trial in turns at every batch size; a suspected regression a second time.

    Energy comes at the largest batch size, on a GPU. `canary` adds a row for the fixed workload.
    Raises WorkerFailed, OtherProtocol, and OutOfTime where nothing of it was measured.
    """
    with _opened(turn) as (sides, told):
        if any("skipped" in each for each in told):
            return Seen(_skipped(turn, told), told)
        works = [*turn.works, *([CANARY] if canary else [])]
        questions = [Question(f"time {w}", TIME, partial(_timed, work=w)) for w in works]
        if turn.on_gpu and turn.works:
            questions.append(Question(f"energy {turn.largest}", ENERGY, _energy))
        rows = [question.answer(sides, turn) for question in questions]
    pairs = zip(rows, questions, strict=True)
    confirmed = [_confirmed(row, partial(question.again, turn)) for row, question in pairs]
    return Seen(confirmed, told, _changes(turn.name, told))


def qualities(turn: Turn, seeds: Sequence[int]) -> list[Pair]:
    """Quality (baseline, candidate) of more seeds of the trial, in fresh workers."""
    found = []
    with _started(turn) as sides:
        for seed in seeds:
            again = turn.with_seed(seed)
            for which, side in enumerate(sides):
                side.send("quality", folder=_fresh_folder(again, which))
            first, second = (side.receive()["quality"] for side in sides)
            found.append((first, second))
    return found


def _reseeded(content: Content, seed: int) -> Content:
    made = copy.deepcopy(dict(content))
    made["config"]["seed"] = made["labels"]["seed"] = seed
    checkpoint = PurePosixPath(made["dense"]["checkpoint"])
    made["dense"]["checkpoint"] = str(checkpoint.with_stem(f"{checkpoint.stem}-seed{seed}"))
    return made


@contextmanager
def _started(turn: Turn) -> Iterator[Sides]:
    """Fresh workers on both sides; they end with the context."""
    with ExitStack() as stack:
        limit_s = float(turn.contents[0]["config"]["timeout_s"])
        first, second = (
            stack.enter_context(Partner(revision, turn.variables, limit_s, turn.deadline))
            for revision in turn.revisions
        )
        yield first, second


@contextmanager
def _opened(turn: Turn) -> Iterator[tuple[Sides, Told]]:
    """Fresh workers, trained."""
    with _started(turn) as sides:
        told = open_both(sides, (_fresh_folder(turn, 0), _fresh_folder(turn, 1)))
        for side, each in zip(sides, told, strict=True):
            if each.get("protocol") != PROTOCOL:
                raise OtherProtocol(f"{side.revision}: worker protocol {each.get('protocol')}")
        yield sides, told


def _fresh_folder(turn: Turn, which: int) -> str:
    number = sum(1 for _ in turn.scratch.iterdir()) if turn.scratch.exists() else 0
    return str(write_trial(turn.scratch / f"{number}-{'ab'[which]}", turn.contents[which]))


def _timed(sides: Sides, turn: Turn, work: str) -> Row:
    """The row of one work's times before any rerun."""
    start = int(turn.measure["rounds"])
    rounds = warmed(sides, work, float(turn.measure["block_ms"]))
    judged = decide(rounds.more, start)
    row = _row(turn, f"time {work}", judged, rounds.median_s)
    row = replace(row, unit="s", margins=TIME, num_looks=_most_looks(start, MAX_ROUNDS))
    return row if rounds.steady else _doubted(row, UNSETTLED)


def _energy(sides: Sides, turn: Turn) -> Row:
    """The row of energy at the largest batch size, before any rerun."""
    name = turn.largest
    windows = Windows(sides, name, float(turn.measure["energy_window_s"]))
    try:
        judged = decide(windows.more, WINDOWS, ENERGY, MOST_WINDOWS, mean_ratio)
    except NoEnergy as error:
        return Row(turn.name, f"energy {name}", "inconclusive", ENERGY, reason=str(error))
    row = _row(turn, f"energy {name}", judged, windows.mean_j)
    row = replace(row, unit="j", margins=ENERGY, num_looks=_most_looks(WINDOWS, MOST_WINDOWS))
    return _doubted(row, windows.doubt) if windows.doubt else row


def _row(turn: Turn, metric: str, judged: Judged, values: tuple[float, float]) -> Row:
    return Row(
        turn.name,
        metric,
        judged.judgement,
        ratio=judged.ratio,
        baseline=values[0],
        candidate=values[1],
        reason=judged.ratio.reason,
    )


def _most_looks(start: int, most: int) -> int:
    """How often the gate may look: the error is that of all looks, also of those not needed."""
    return sum(1 for _ in looks(start, most))


def _doubted(row: Row, why: str) -> Row:
    return replace(row, judgement="inconclusive", reason=why)


def _confirmed(row: Row, again: Callable[[], Row]) -> Row:
    """The row after a rerun, if one is needed."""
    final, rerun = confirm(row, again)
    if rerun is None:
        return row
    why = f"rerun: {rerun.reason}" if rerun.reason else row.reason
    return replace(row, judgement=final.judgement, rerun=rerun.ratio, reason=why)


def _skipped(turn: Turn, told: Told) -> list[Row]:
    before, now = (each.get("skipped") for each in told)
    if before is not None and now is not None:
        return []
    if now is not None:
        return [Row(turn.name, "trial", "regressed", reason=f"now unsupported: {now}")]
    return [Row(turn.name, "trial", "improved", reason="now supported")]


def _changes(name: str, told: Told) -> list[str]:
    """Counts that differ between the sides."""
    old, new = (each["counts"] for each in told)
    return [
        f"{name} {key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _shown(count: float | None) -> str:
    return "none" if count is None else f"{count:,.10g}"
