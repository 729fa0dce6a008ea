"""The probable cause of a change: code, machine or noise, and what speaks for it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.regress.verdict import Row

MOVED = 0.05  # a canary that moved by more says that the machine did


def machine_changed(before_s: float | None, now_s: float | None) -> bool:
    """Whether the canary's time says that this is not the machine it was."""
    return before_s is not None and now_s is not None and abs(now_s / before_s - 1) > MOVED


def cause_between_sessions(row: Row, before_s: float | None, now_s: float | None) -> str | None:
    """Two runs at different times, each paired with dense in its own process."""
    if row.judgement in ("equal", "inconclusive"):
        return _unsure(row, "the interval is too wide to tell; more rounds (measure.rounds=100)")
    if row.metric == "trial":
        return "code or machine: the reason and the trial's log say more"
    if row.metric == "quality":
        return "code: the same seeds train other models on the same hardware and libraries"
    if before_s is None or now_s is None:
        return "code or machine: a run without a canary cannot tell"
    if machine_changed(before_s, now_s):
        return f"machine or code: the canary moved too ({now_s / before_s:.2f}x)"
    return "code: paired with dense in its own process, and the canary did not move"


def cause_between_revisions(row: Row, changes: Sequence[str]) -> str | None:
    """Two revisions in turns on one machine at one time: the machine is out of the question."""
    if row.judgement in ("equal", "inconclusive"):
        return _unsure(row, "the interval is still too wide after the last round")
    if row.metric == "trial":
        return "code: one revision can, the other cannot, on the same machine"
    if changes:
        return f"code: the work changed as well ({'; '.join(changes)})"
    if row.metric == "quality":
        return "code: the same counts, but the same seeds train other models"
    return "code: the same counts, another speed (or chance, within the stated error)"


def _unsure(row: Row, too_wide: str) -> str | None:
    """Why nothing is known: what the row itself says, else noise. Equal has no cause."""
    if row.judgement == "equal":
        return None
    return f"not known: {row.reason}" if row.reason else f"noise: {too_wide}"
