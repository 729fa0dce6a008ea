"""The probable cause of a change: code, machine or noise, and what speaks for it."""

from __future__ import annotations

from bench.compare.gate import Judgement

MOVED = 0.05  # a canary that moved by more says that the machine did


def machine_changed(before_s: float | None, now_s: float | None) -> bool:
    """Whether the canary's time says that this is not the machine it was."""
    return before_s is not None and now_s is not None and abs(now_s / before_s - 1) > MOVED


def cause_between_sessions(
    judgement: Judgement, before_s: float | None, now_s: float | None
) -> str:
    """Two runs at different times, each paired with dense in its own process."""
    if judgement == "inconclusive":
        return "noise: the interval is too wide to tell; more rounds (measure.rounds=100)"
    if before_s is None or now_s is None:
        return "code or machine: a run without a canary cannot tell"
    if machine_changed(before_s, now_s):
        return f"machine or code: the canary moved too ({now_s / before_s:.2f}x)"
    return "code: paired with dense in its own process, and the canary did not move"


def cause_between_revisions(judgement: Judgement, changes: list[str]) -> str:
    """Two revisions in turns on one machine at one time: the machine is out of the question."""
    if judgement == "inconclusive":
        return "noise: the interval is still too wide after the last round"
    if changes:
        return f"code: the work changed as well ({'; '.join(changes)})"
    return "code: the same counts, another speed (or chance, within the stated error)"
