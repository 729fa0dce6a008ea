"""The probable cause of a change: code, machine or noise, and the evidence for it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.regress.counts import NAMES
from bench.regress.verdict import NO_CONTROL, Row

COUNTS = tuple(NAMES.values())
MOVED = 0.05  # relative change of the canary beyond which the machine counts as changed


def machine_changed(before_s: float | None, now_s: float | None) -> bool:
    """Whether the canary's time shows another machine, or another state of it."""
    return before_s is not None and now_s is not None and abs(now_s / before_s - 1) > MOVED


def cause_between_runs(
    row: Row, before_s: float | None, now_s: float | None, *, same_code: bool = False
) -> str | None:
    """The cause in two runs at different times, each paired with dense in its own process.

    `before_s`, `now_s`: the canary's seconds per pass in the two runs. `same_code`: the code of
    method, backbone and task has the same hash on both sides.
    """
    if same_code and row.judgement in ("regressed", "improved"):
        return f"not the plugins' code, which is the same on both sides: {_other_causes(row)}"
    if row.judgement in ("equal", "inconclusive"):
        return _open_cause(row, "the interval is too wide; add rounds (measure.rounds=100)")
    if row.metric == "trial":
        return "code or machine: see the reason and the trial's log"
    if row.metric in COUNTS:
        return "code: this count depends on neither training nor machine"
    if row.metric == "quality":
        # Hardware and libraries are equal by then: `comparable` has checked them.
        return "code: the same seeds train other models on the same hardware and libraries"
    if before_s is None or now_s is None:
        return "code or machine: without a canary in both runs they cannot be separated"
    if machine_changed(before_s, now_s):
        return f"machine or code: the canary moved too ({now_s / before_s:.2f}x)"
    return "code: paired with dense in its own process, and the canary did not move"


def cause_between_revisions(row: Row, changes: Sequence[str]) -> str | None:
    """The cause in two revisions in turns on one machine, which excludes the machine.

    `changes`: the counts of this row's model that differ, such as executed FLOPs.
    """
    if row.judgement in ("equal", "inconclusive"):
        return _open_cause(row, "the interval is still too wide after the last round")
    # A crash or Unsupported in one process only.
    if row.metric == "trial":
        return "code: one revision can, the other cannot, on the same machine"
    if changes:
        return f"code: the work changed as well ({'; '.join(changes)})"
    if row.metric in COUNTS:
        return "code: this count depends on neither training nor machine"
    if row.metric == "quality":
        return "code: the same counts, but the same seeds train other models"
    return "code: the same counts, another speed (or chance, within the stated error)"


def _other_causes(row: Row) -> str:
    if row.metric in COUNTS:
        return "the harness counts differently"
    return "the machine, the harness, or chance within the stated error"


def _open_cause(row: Row, too_wide: str) -> str | None:
    """The cause of no judgement: the row's own reason, else noise. Equal has no cause."""
    if row.judgement == "equal" or row.reason == NO_CONTROL:
        return None
    return f"unknown: {row.reason}" if row.reason else f"noise: {too_wide}"
