"""Metrics under a condition: clean samples, a severity of corruption, garbage, an unseen kind.

A severity is the mean over the task's corruptions, and has a number only where each of them has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bench.records.catalogue import DENSE_FLOPS_UNDER, FLOPS_UNDER, QUALITY_UNDER
from bench.records.entry import Entry
from bench.report.tables.cells import Cell
from bench.report.tables.table import DENSE, Row, Table

CLEAN, SEVERITIES = "clean", ("1", "2", "3", "4", "5")
UNANSWERABLE = ("garbage", "unseen")  # no answer is correct, so there is no quality
CONDITIONS = (CLEAN, *SEVERITIES, *UNANSWERABLE)


def robust_rows(table: Table) -> list[Row]:
    """The rows, at their default operating point, whose trials measured robustness."""
    return [row for row in table.rows if not row.point and QUALITY_UNDER.at(CLEAN) in row.cells]


def quality_title(rows: Sequence[Row]) -> str:
    """The task's unit; "quality" where it has none."""
    unit = rows[0].cells[QUALITY_UNDER.at(CLEAN)].unit
    return "quality" if unit == "1" else unit


def cell_at(row: Row, entry: Entry, condition: str) -> Cell | None:
    """A metric under a condition: at a severity, the mean over the corruptions.

    None where it was not measured.
    """
    if condition not in SEVERITIES:
        return row.cells.get(entry.at(condition))
    # The corruptions are the task's own, so their names are read off the keys: `blur_s3`.
    cells = [
        cell
        for key, cell in row.cells.items()
        if (slots := entry.match(key)) and slots[0].endswith(f"_s{condition}")
    ]
    return _mean(cells)


def _mean(cells: Sequence[Cell]) -> Cell | None:
    if not cells:
        return None
    reasons = tuple(dict.fromkeys(why for cell in cells for why in cell.reasons))
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < len(cells):  # a mean over the others would be one over other corruptions
        return Cell(None, cells[0].unit, num_seeds=0, reasons=reasons)
    value = math.fsum(value / len(values) for value in values)
    # No interval: the corruptions of one trial are not independent samples.
    return Cell(value, cells[0].unit, num_seeds=min(c.num_seeds for c in cells), reasons=reasons)


def flops_share(row: Row, condition: str) -> Cell | None:
    """Executed FLOPs over those of the dense model on the same inputs; 1 for dense itself."""
    own = cell_at(row, FLOPS_UNDER, condition)
    # A record of dense has no second dense model in it.
    dense = own if row.method == DENSE else cell_at(row, DENSE_FLOPS_UNDER, condition)
    if own is None or own.value is None:
        return own
    if dense is None or not dense.value:
        reasons = dense.reasons if dense is not None else ()
        reasons = reasons or ("the FLOPs of dense were not counted",)
        return Cell(None, "1", num_seeds=0, reasons=reasons)
    return replace(own, value=own.value / dense.value, unit="1")
