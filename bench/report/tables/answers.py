"""Does a row pay? Speed-up and quality against dense, by the one verdict function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.records.catalogue import QUALITY, QUALITY_VS_DENSE, SPEEDUP
from bench.report.tables.cells import Cell
from bench.report.tables.table import DENSE, Row, Table

if TYPE_CHECKING:
    from bench.statistics import Interval
    from bench.statistics.verdict import Loss


@dataclass(frozen=True)
class Answer:
    """The verdict on one row at one batch size; `reason` where it cannot tell."""

    verdict: str
    reason: str = ""


def answer(table: Table, row: Row, batch_size: int) -> Answer | None:
    """The verdict on a row; None for dense itself, and where it was not timed."""
    cell = row.cells.get(SPEEDUP.at(batch_size))
    if row.method == DENSE or cell is None or cell.value is None:
        return None
    if row.is_ceiling:
        return Answer("oracle upper bound")
    from bench.statistics.verdict import Verdict, judge, why_unclear  # scipy: late

    if _is_noise(table, cell, batch_size):
        return Answer(Verdict.CANNOT_TELL, "the speed-up is within timing noise")
    speedup = _interval(cell)
    loss, tolerance, unit = row_loss(table, row), row_tolerance(table, row), row_unit(row)
    reason = why_unclear(speedup, loss, tolerance, unit)
    return Answer(judge(speedup, loss, tolerance), reason)


def _is_noise(table: Table, cell: Cell, batch_size: int) -> bool:
    """Whether identical models differed by as much as the row differs from dense."""
    floor = table.noise_floors.get(batch_size)
    return floor is not None and abs((cell.value or 1.0) - 1) <= floor.value


def _interval(cell: Cell) -> Interval:
    from bench.statistics import Interval

    return Interval(cell.value, cell.low, cell.high, cell.num_seeds, "record")


def row_loss(table: Table, row: Row) -> Loss | None:
    """How much quality a row loses against dense; None without an interval."""
    from bench.statistics.verdict import loss_of

    difference = row.cells.get(QUALITY_VS_DENSE.key)
    direction = table.quality.direction if table.quality is not None else "higher"
    return None if difference is None else loss_of(_interval(difference), direction)


def row_tolerance(table: Table, row: Row) -> float:
    """As the row's trials were measured with; by the unit in records that do not have it."""
    from bench.statistics.verdict import tolerance_of

    dense = next((each for each in table.rows if each.method == DENSE), None)
    value = (dense or row).value(QUALITY.key)
    return tolerance_of(row_unit(row), value or 0.0, row.tolerance)


def row_unit(row: Row) -> str:
    """The unit of a row's quality; "" where it has none."""
    cell = row.cells.get(QUALITY.key)
    return cell.unit if cell is not None else ""
