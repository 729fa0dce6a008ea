"""Claims about inputs that are not like those of training: corrupted ones, and nonsense."""

from __future__ import annotations

import math

from bench.report.claims.case import Case, reason_of
from bench.report.claims.gains import Asked
from bench.report.claims.outcome import Answer, Claim, Outcome, claim_of_difference, not_measured
from bench.report.tables.cells import Cell
from bench.report.tables.robust_cells import CLEAN, UNANSWERABLE, flops_share, robust_rows
from bench.report.tables.robustness import SAME, quality_losses
from bench.statistics.intervals import Interval, mean_interval

ROBUST = Claim(
    "robust", "more robust", "loses less quality than dense under corruptions of the test split"
)
ANOMALOUS = Claim(
    "anomalous",
    "cheap on anomalies",
    f"executes fewer FLOPs than dense, by {SAME:.0%} or more, on garbage and on an unseen kind",
)
NOT_ASKED = "not asked for (measure.robustness=true)"


def harder(case: Case) -> Asked:
    """Both claims."""
    asked = any(row is case.row for row in robust_rows(case.table))
    yield ROBUST, None, _robust(case) if asked else not_measured(NOT_ASKED)
    yield ANOMALOUS, None, _anomalous(case) if asked else not_measured(NOT_ASKED)


def _robust(case: Case) -> Outcome:
    """Loss of dense minus own loss: positive where the method holds up better."""
    pairs = quality_losses(case.table, case.row)
    if not pairs:
        return not_measured("no corruption was measured at all severities")
    kept = [dense - own for own, dense in pairs]
    found = mean_interval(kept)
    if len(kept) == 1:
        found = Interval(kept[0], None, None, 1, "none", "a single seed supports no claim")
    # A loss of quality is positive whichever way the task counts.
    tolerance, unit = case.quality.tolerance, case.quality.unit
    return claim_of_difference(found, "higher", tolerance, unit)


def _anomalous(case: Case) -> Outcome:
    cells = {name: flops_share(case.row, name) for name in UNANSWERABLE}
    shares = {name: share for name, cell in cells.items() if (share := _share(cell)) is not None}
    if not shares:
        return not_measured(next((reason_of(cell) for cell in cells.values() if cell), NOT_ASKED))
    worst = max(shares.values())
    clean = _share(flops_share(case.row, CLEAN))
    notes = [f"{name} {share:.3g} %" for name, share in shares.items()]
    notes += [f"clean {clean:.3g} %"] if clean is not None else []
    answer = Answer.YES if worst < 100 * (1 - SAME) else Answer.NO
    # Counted on the drawn inputs: a sample, whose spread is not in the record.
    return Outcome(answer, worst, unit="%", note="FLOPs, % of dense: " + ", ".join(notes))


def _share(cell: Cell | None) -> float | None:
    """In percent of dense on the same inputs."""
    known = cell is not None and cell.value is not None and math.isfinite(cell.value)
    return 100 * (cell.value or 0.0) if known and cell is not None else None
