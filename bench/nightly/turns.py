"""One trial of two revisions: opened on both sides, timed in turns, judged, rerun if suspected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.compare.causes import cause_between_revisions
from bench.compare.gate import TIME, Judged, confirm, decide
from bench.compare.verdict import Row
from bench.nightly.lockstep import Rounds, Sides, open_both, warmed
from bench.nightly.partner import Partner, write_trial
from bench.nightly.revisions import Revision

PROTOCOL = 1  # of the worker; another one is another contract
CANARY = "canary"
Content = Mapping[str, Any]  # a trial.json


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


@dataclass
class Seen:
    """What came of a turn: judged rows, what each side said of itself, counts that changed."""

    rows: list[Row]
    told: tuple[dict[str, Any], dict[str, Any]]
    changes: list[str] = field(default_factory=list)


class OtherProtocol(Exception):
    """A revision whose worker speaks another protocol; the message names it."""


@contextmanager
def opened(turn: Turn) -> Iterator[tuple[Sides, tuple[dict[str, Any], dict[str, Any]]]]:
    """Fresh workers on both sides, trained. Raises WorkerFailed and OtherProtocol."""
    with ExitStack() as stack:
        sides, folders = [], []
        for which in range(2):
            content = turn.contents[which]
            limit_s = float(content["config"]["timeout_s"])
            partner = Partner(turn.revisions[which], turn.variables, limit_s)
            sides.append(stack.enter_context(partner))
            folders.append(_fresh_folder(turn, which, content))
        both = (sides[0], sides[1])
        told = open_both(both, (folders[0], folders[1]))
        for side, each in zip(both, told, strict=True):
            if each["protocol"] != PROTOCOL:
                raise OtherProtocol(f"{side.revision}: worker protocol {each['protocol']}")
        yield both, told


def _fresh_folder(turn: Turn, which: int, content: Content) -> str:
    number = sum(1 for _ in turn.scratch.iterdir()) if turn.scratch.exists() else 0
    return str(write_trial(turn.scratch / f"{number}-{'ab'[which]}", content))


def judge_turn(turn: Turn, *, canary: bool = False) -> Seen:
    """Time the trial in turns at every batch size; a suspected regression is measured again.

    `canary` adds a row for the fixed workload. Raises WorkerFailed and OtherProtocol.
    """
    with opened(turn) as (sides, told):
        if any("skipped" in each for each in told):
            return Seen(_skipped(turn, told), told)
        works = [*turn.works, *([CANARY] if canary else [])]
        timed = {work: _timed(sides, turn, work) for work in works}
    changes = _changes(turn.name, told)
    rows = [_row(turn, work, *timed[work], changes) for work in works]
    return Seen(rows, told, changes)


def _timed(sides: Sides, turn: Turn, work: str) -> tuple[Judged, Rounds]:
    rounds = warmed(sides, work, float(turn.measure["block_ms"]))
    return decide(rounds.more, int(turn.measure["rounds"])), rounds


def _again(turn: Turn, work: str) -> Judged:
    """The same measurement with new processes, trained anew."""
    with opened(turn) as (sides, _):
        return _timed(sides, turn, work)[0]


def _row(turn: Turn, work: str, first: Judged, rounds: Rounds, changes: Sequence[str]) -> Row:
    final, rerun = confirm(first, lambda: _again(turn, work))
    judgement = final.judgement if rounds.steady else "inconclusive"
    reason = None if rounds.steady else "times never settled in the warm-up"
    medians = rounds.median_s
    return Row(
        turn.name,
        f"time {work}",
        judgement,
        TIME,
        first.ratio,
        rerun=rerun.ratio if rerun else None,
        unit="s",
        baseline=medians[0],
        candidate=medians[1],
        num_looks=first.num_looks,
        reason=reason or first.ratio.reason,
        cause=None if judgement == "equal" else cause_between_revisions(judgement, list(changes)),
    )


def _skipped(turn: Turn, told: Sequence[Mapping[str, Any]]) -> list[Row]:
    before, now = (each.get("skipped") for each in told)
    if before is not None and now is not None:
        return []
    reason = f"now unsupported: {now}" if now is not None else "now supported"
    judgement = "regressed" if now is not None else "improved"
    return [Row(turn.name, "trial", judgement, reason=reason)]  # type: ignore[arg-type]


def _changes(name: str, told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Counts that differ between the sides."""
    old, new = (each["counts"] for each in told)
    return [
        f"{name} {key}: {old.get(key, 0):,.10g} -> {new.get(key, 0):,.10g}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
