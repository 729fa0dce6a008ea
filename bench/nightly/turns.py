"""One trial of two revisions: opened on both sides, timed in turns, judged, rerun if suspected."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from bench.compare.causes import cause_between_revisions
from bench.compare.gate import ENERGY, TIME, Judged, confirm, decide, mean_ratio
from bench.compare.verdict import Row
from bench.nightly.lockstep import NoEnergy, Sides, Windows, open_both, warmed
from bench.nightly.partner import Partner, write_trial
from bench.nightly.revisions import Revision

PROTOCOL = 1  # of the worker; another one is another contract
CANARY = "canary"
WINDOWS, MOST_WINDOWS = 5, 10  # energy windows a side: they last seconds each
UNSETTLED = "times never settled in the warm-up"
Content = Mapping[str, Any]  # a trial.json
Told = tuple[dict[str, Any], dict[str, Any]]  # what baseline and candidate say of themselves


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

    @property
    def measure(self) -> Mapping[str, Any]:
        """How carefully: the baseline's measure block; the candidate's is equal."""
        return dict(self.contents[0]["config"]["measure"])

    @property
    def works(self) -> list[str]:
        """What is timed: b1, b64, ..."""
        return [f"b{size}" for size in self.measure["batch_sizes"]]

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


def judge_turn(turn: Turn, *, canary: bool = False) -> Seen:
    """Measure the trial in turns at every batch size; a suspected regression a second time.

    Energy comes at the largest batch size, on a GPU. `canary` adds a row for the fixed workload.
    Raises WorkerFailed and OtherProtocol.
    """
    with _opened(turn) as (sides, told):
        if any("skipped" in each for each in told):
            return Seen(_skipped(turn, told), told)
        works = [*turn.works, *([CANARY] if canary else [])]
        timed = [_timed(sides, turn, work) for work in works]
        energy = [_energy(sides, turn)] if turn.on_gpu else []
    changes = _changes(turn.name, told)
    times = zip(works, timed, strict=True)
    rows = [_confirmed(turn, work, row, judged, changes) for work, (row, judged) in times]
    rows += [_confirmed_energy(turn, row, judged, changes) for row, judged in energy]
    return Seen(rows, told, changes)


def qualities(turn: Turn, seeds: Sequence[int]) -> list[tuple[float | None, float | None]]:
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
            stack.enter_context(Partner(revision, turn.variables, limit_s))
            for revision in turn.revisions
        )
        yield first, second


@contextmanager
def _opened(turn: Turn) -> Iterator[tuple[Sides, Told]]:
    """Fresh workers, trained."""
    with _started(turn) as sides:
        told = open_both(sides, (_fresh_folder(turn, 0), _fresh_folder(turn, 1)))
        for side, each in zip(sides, told, strict=True):
            if each["protocol"] != PROTOCOL:
                raise OtherProtocol(f"{side.revision}: worker protocol {each['protocol']}")
        yield sides, told


def _fresh_folder(turn: Turn, which: int) -> str:
    number = sum(1 for _ in turn.scratch.iterdir()) if turn.scratch.exists() else 0
    return str(write_trial(turn.scratch / f"{number}-{'ab'[which]}", turn.contents[which]))


def _timed(sides: Sides, turn: Turn, work: str) -> tuple[Row, Judged]:
    """The row of one work's times before any rerun, and what it rests on."""
    rounds = warmed(sides, work, float(turn.measure["block_ms"]))
    judged = decide(rounds.more, int(turn.measure["rounds"]))
    row = _row(turn, f"time {work}", judged, "s", rounds.median_s)
    if not rounds.steady:
        row = replace(row, judgement="inconclusive", reason=UNSETTLED)
    return replace(row, margins=TIME), judged


def _energy(sides: Sides, turn: Turn) -> tuple[Row, Judged | None]:
    """The row of energy at the largest batch size."""
    size = max(turn.measure["batch_sizes"])
    windows = Windows(sides, f"b{size}", float(turn.measure["energy_window_s"]))
    try:
        judged = decide(windows.more, WINDOWS, ENERGY, MOST_WINDOWS, mean_ratio)
    except NoEnergy as error:
        reason = str(error)
        return Row(turn.name, f"energy b{size}", "inconclusive", ENERGY, reason=reason), None
    row = _row(turn, f"energy b{size}", judged, "j", windows.mean_j)
    if windows.doubt:
        row = replace(row, judgement="inconclusive", reason=windows.doubt)
    return replace(row, margins=ENERGY), judged


def _row(turn: Turn, metric: str, judged: Judged, unit: str, values: tuple[float, float]) -> Row:
    return Row(
        turn.name,
        metric,
        judged.judgement,
        ratio=judged.ratio,
        unit=unit,
        baseline=values[0],
        candidate=values[1],
        num_looks=judged.num_looks,
        reason=judged.ratio.reason,
    )


def _confirmed(turn: Turn, work: str, row: Row, judged: Judged, changes: list[str]) -> Row:
    def again() -> Judged:
        with _opened(turn) as (sides, _):
            return _timed(sides, turn, work)[1]

    return _final(row, judged, confirm(judged, again), changes)


def _confirmed_energy(turn: Turn, row: Row, judged: Judged | None, changes: list[str]) -> Row:
    if judged is None:
        return row

    def again() -> Judged:
        with _opened(turn) as (sides, _):
            return _energy(sides, turn)[1] or judged

    return _final(row, judged, confirm(judged, again), changes)


def _final(
    row: Row, first: Judged, outcome: tuple[Judged, Judged | None], changes: list[str]
) -> Row:
    """The row after the rerun, with the probable cause of what it says."""
    final, rerun = outcome
    if rerun is not None and row.judgement == first.judgement:
        row = replace(row, judgement=final.judgement, rerun=rerun.ratio)
    if row.judgement == "equal":
        return row
    return replace(row, cause=cause_between_revisions(row.judgement, changes))


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
        f"{name} {key}: {old.get(key, 0):,.10g} -> {new.get(key, 0):,.10g}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
