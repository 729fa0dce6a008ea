"""What routing errors cost: a method beside its oracle, and beside random decisions.

Both controls are of the method's default settings, so that named variants have none. The oracle
reads the targets: its distance is the most that better decisions could gain.
"""

from __future__ import annotations

from bench.records.catalogue import FLOPS_SHARE
from bench.report.claims.case import Case, is_dense, quality_difference
from bench.report.claims.gains import Asked
from bench.report.claims.outcome import Claim, Outcome, claim_of_difference, not_measured
from bench.report.tables.numbers import number
from bench.report.tables.table import Row

ERRORS = Claim(
    "routing_errors",
    "routing errors",
    "the best decisions in hindsight (the oracle, an upper bound) are better than the method's",
    "cost",
)
BEATS_RANDOM = Claim(
    "beats_random", "beats random", "better than the same model with decisions drawn at random"
)


def controls(case: Case) -> Asked:
    """Both distances; none for a model that is dense."""
    if is_dense(case.row):
        return
    oracle, random = _control(case, ceiling=True), _control(case, ceiling=False)
    yield ERRORS, None, _distance(case, oracle, "an oracle", first=oracle)
    yield BEATS_RANDOM, None, _distance(case, random, "random decisions", first=case)


def _control(case: Case, *, ceiling: bool) -> Case | None:
    """The table's control of this method at its chosen point; None without one."""
    if case.row.variant:  # a control runs its method with the default settings
        return None
    others = (case.of(row) for row in case.table.rows if not row.point)
    return next((o for o in others if _is_control(o, case.row, ceiling)), None)


def _is_control(other: Case, row: Row, ceiling: bool) -> bool:
    return other.control_of() == row.method and other.row.is_ceiling == ceiling


def _distance(case: Case, control: Case | None, word: str, first: Case | None) -> Outcome:
    if control is None or first is None:
        return not_measured(f"no trial of {word} for this method beside it")
    second = case if first is control else control
    found = quality_difference(first, second)
    if found is None:
        return not_measured(f"no quality of {control.row.name}")
    outcome = claim_of_difference(found, case.direction, case.quality.tolerance, case.quality.unit)
    both = f"{control.row.name} at {_flops(control.row)}, the method at {_flops(case.row)}"
    return outcome.with_note(before=both)


def _flops(row: Row) -> str:
    share = row.value(FLOPS_SHARE.key)
    return "an unknown share" if share is None else f"{number(100 * share)} % of dense's FLOPs"
