"""A metric of the catalogue as a column: header, unit for all rows, and how its cells are written.

The catalogue's quantity decides: a ratio to dense is compared with 1, a difference with 0, and an
amount gets one prefix for the whole column.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench.records.catalogue import (
    OF_DENSE,
    QUALITY,
    REALISED,
    SHARE,
    SPEEDUP,
    quality_key,
)
from bench.records.entry import Entry, SeedMean, Shown
from bench.report.tables.answers import answer
from bench.report.tables.cells import Cell
from bench.report.tables.numbers import Text, difference, plain, ratio
from bench.report.tables.table import Row, Table

# 9 characters: "batch 64" and "training" fit, and most numbers with their interval are wider.
HEADER_WIDTH = 9
_wrap = textwrap.TextWrapper(HEADER_WIDTH, break_long_words=False, break_on_hyphens=False).wrap
Write = Callable[[Cell], Text]
Prefixes = Sequence[tuple[float, str]]
SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"))
BINARY = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
# By the unit in records: the prefixes of the column, and the unit behind them.
SCALES: dict[str, tuple[Prefixes, str]] = {
    "count": (SI, ""),
    "flop": (SI, ""),
    "mac": (SI, ""),
    "bytes": (BINARY, ""),
    "j": (SI, "J"),
    "w": (SI, "W"),
    "samples/s": (SI, "/s"),
    "ms": (((1.0, "ms"),), ""),
    "s": (((1.0, "s"),), ""),
}
PERCENT = 0.01
HEADLINE_BATCHES = (1, 64)  # latency and throughput: the two ends of what users run
ON_TERMINAL = (Shown.TERMINAL, Shown.TERMINAL_IF)


@dataclass(frozen=True)
class Column:
    """A metric as a column; `title` and `unit` make the header."""

    title: str
    unit: str
    key: str
    write: Write
    entry: Entry
    on_terminal: bool = True
    of_row: Callable[[Row], Text | None] | None = None  # instead of a metric's cell

    @property
    def header(self) -> str:
        """Title and unit in one line: `memory, batch 64 (MiB)`."""
        return self.title + (f" ({self.unit})" if self.unit else "")

    @property
    def header_lines(self) -> list[str]:
        """The same in short lines: `memory`, `batch 64`, `(MiB)`."""
        words = [
            word.replace("/", "/ ") if len(word) > HEADER_WIDTH else word
            for word in self.header.split()
        ]
        return [line.removesuffix(",") for line in _wrap(" ".join(words))] or [""]


def make_column(table: Table, entry: Entry, *values: str | int) -> Column:
    """The column of `entry` with its slots filled with `values`."""
    key = entry.at(*values)
    on_terminal = entry.shown in ON_TERMINAL
    if entry is REALISED:  # at the largest batch alone: the terminal is 120 characters wide
        on_terminal = int(values[0]) == max(headline_batches(table))
    unit, write = _unit_and_write(table, entry, key, values)
    return Column(entry.title_at(*values), unit, key, write, entry, on_terminal)


def verdict_column(table: Table, batch_size: int) -> Column:
    """The verdict on every row at a batch size; on a terminal at the largest alone."""

    def write(row: Row) -> Text | None:
        found = answer(table, row, batch_size)
        return None if found is None else Text(str(found.verdict), doubt=found.reason)

    title = f"verdict, batch {batch_size}"
    on_terminal = batch_size == max(headline_batches(table))
    return Column(title, "", f"verdict_b{batch_size}", plain, SPEEDUP, on_terminal, write)


def _unit_and_write(
    table: Table, entry: Entry, key: str, values: Sequence[str | int]
) -> tuple[str, Write]:
    quantity = entry.quantity
    if entry is SPEEDUP:  # the only ratio with a noise control of its own
        return "x", _speedup_writer(table, int(values[0]))
    if quantity.even == 1:
        return "x", ratio
    if quantity.even == 0:
        return "", difference
    if quantity in (OF_DENSE, SHARE):
        unit = "" if "%" in entry.title else "%"  # "FLOPs, % of dense" has the sign already
        return unit, partial(_write_divided, divisor=PERCENT)
    # Where seeds are averaged with an interval, a reader should see it.
    spread = entry.seed_mean is SeedMean.INTERVAL
    if quantity.unit not in SCALES:
        return "", partial(plain, spread=spread)
    return _scaled(table, key, *SCALES[quantity.unit], spread=spread)


def _scaled(
    table: Table, key: str, prefixes: Prefixes, unit: str, *, spread: bool
) -> tuple[str, Write]:
    """One unit for all rows: the largest prefix that the largest value reaches."""
    largest = max((abs(value) for value in column_values(table, key)), default=1.0)
    divisor, prefix = next((pair for pair in prefixes if largest >= pair[0]), prefixes[-1])
    # Without a prefix "/s" would begin with the slash.
    return (prefix + unit).lstrip("/"), partial(_write_divided, divisor=divisor, spread=spread)


def _write_divided(cell: Cell, *, divisor: float, spread: bool = False) -> Text:
    value, low, high = (
        None if x is None else x / divisor for x in (cell.value, cell.low, cell.high)
    )
    return plain(replace(cell, value=value, low=low, high=high), spread=spread)


def _speedup_writer(table: Table, batch_size: int) -> Write:
    """Dense time / method time; a difference within timing noise has no verdict."""
    floor = table.noise_floors.get(batch_size)

    def write(cell: Cell) -> Text:
        # The interval covers the rounds of one session, the A/A control also what they share.
        # A difference must exceed both.
        text = ratio(cell)
        has_verdict = text.verdict in ("better", "worse") and cell.value is not None
        if floor is None or not has_verdict or abs((cell.value or 1.0) - 1) > floor.value:
            return text
        doubt = f"within timing noise: identical models differed by up to {floor.value:.1%}"
        return replace(text, verdict="", doubt=doubt)

    return write


def quality_columns(table: Table, entry: Entry) -> list[Column]:
    """The task's quality under its own unit, or its further scores by name."""
    label = table.quality
    arrow = {"higher": " \u2191", "lower": " \u2193"}.get(label.direction if label else "", "")
    # Four digits: 92.15 % of 2000 samples is a number of samples, and methods differ by few.
    write = partial(plain, digits=4, spread=True)
    if entry is QUALITY:
        title = (task_unit(table, QUALITY.key) or "quality") + arrow
        return [Column(title, "", QUALITY.key, write, entry)]
    columns = []
    for name in label.more if label else ():
        key = quality_key(name)
        unit = task_unit(table, key)
        shown = "" if unit == name else unit  # BLEU is a name and a unit
        columns.append(Column(name + arrow, shown, key, write, entry, on_terminal=False))
    return columns


def task_unit(table: Table, key: str) -> str:
    """The unit of a metric in this table; "" where it has none."""
    unit = next((row.cells[key].unit for row in table.rows if key in row.cells), "1")
    return "" if unit == "1" else unit


def column_values(table: Table, key: str) -> list[float]:
    """The numbers of a column, without the missing ones."""
    values = (row.value(key) for row in table.rows)
    return [value for value in values if value is not None]


def headline_batches(table: Table) -> list[int]:
    """Batch sizes with columns of their own: 1 and 64, or else the smallest and the largest."""
    found = SPEEDUP.batch_sizes(table.keys)
    if set(HEADLINE_BATCHES) <= set(found):
        return list(HEADLINE_BATCHES)
    return sorted({found[0], found[-1]}) if found else []
