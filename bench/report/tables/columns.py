"""Which columns a table has: the catalogue's metrics, in its order.

A new column is one line of the catalogue. A metric stands
    TERMINAL, TABLE         in every table
    TERMINAL_IF, TABLE_IF   where some row has a number
    TAILS                   in the second table of the page, where some row has a number
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.catalogue import ENTRIES, FURTHER_QUALITY, PEAK_BYTES, QUALITY, SPEEDUP
from bench.records.entry import Entry, Over, Shown
from bench.report.tables.column import (
    Column,
    column_values,
    headline_batches,
    make_column,
    quality_columns,
    verdict_column,
)
from bench.report.tables.table import Table

ALWAYS = (Shown.TERMINAL, Shown.TABLE)
IF_MEASURED = (Shown.TERMINAL_IF, Shown.TABLE_IF, Shown.TAILS)
OF_GENERATION: tuple[Over, ...] = ("the first token", "a further token")


def table_columns(table: Table) -> list[Column]:
    """The columns of the table proper."""
    columns = _columns(table, (Shown.TERMINAL, Shown.TERMINAL_IF, Shown.TABLE, Shown.TABLE_IF))
    verdicts = [verdict_column(table, size) for size in headline_batches(table)]
    # Right of what they are made of.
    last = max((n for n, column in enumerate(columns) if column.entry is SPEEDUP), default=-1)
    return [*columns[: last + 1], *verdicts, *columns[last + 1 :]]


def tail_columns(table: Table) -> list[Column]:
    """The columns of the second table: percentiles of cost, and throughput."""
    return _columns(table, (Shown.TAILS,))


def _columns(table: Table, places: Sequence[Shown]) -> list[Column]:
    entries = [entry for entry in ENTRIES if entry.shown in places]
    columns = [column for entry in entries for column in _columns_of(table, entry)]
    return [column for column in columns if _stands(table, column)]


def _columns_of(table: Table, entry: Entry) -> list[Column]:
    if entry in (QUALITY, FURTHER_QUALITY):  # the task names them
        return quality_columns(table, entry)
    return [make_column(table, entry, *values) for values in _slot_values(table, entry)]


def _slot_values(table: Table, entry: Entry) -> list[tuple[str | int, ...]]:
    """What fills the slots of a family: the headline batch sizes, else what the rows have."""
    if not entry.slots:
        return [()]
    if entry.slots == ("B",):
        sizes = headline_batches(table)
        # One column: memory at batch 1 is mostly parameters, which have a column already.
        return [(size,) for size in ((sizes or [1])[-1:] if entry is PEAK_BYTES else sizes)]
    found = {values for key in table.keys if (values := entry.match(key)) is not None}
    # Shorter first, so that the numbers among them ascend: 9, 50, 99.
    return [*sorted(found, key=lambda values: [(len(value), value) for value in values])]


def _stands(table: Table, column: Column) -> bool:
    if column.entry.shown in IF_MEASURED:
        return bool(column_values(table, column.key))
    if column.entry.over in OF_GENERATION:  # also without a number: the cells give the reason
        return column.key in table.keys
    return True
