"""All tables as one CSV: numbers in plain units, one line per row of a table, for other programs.

Columns are metric keys, which carry their units; `_low` and `_high` are the bounds of the 95 %
interval. An empty cell is a missing number, whose reason is in `missing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.records.catalogue import QUALITY, SPEEDUP
from bench.records.reading import config_block
from bench.records.redaction import printable
from bench.report.tables.answers import answer
from bench.report.tables.table import Row, Table

# Spreadsheets run a cell that begins with one of these (CWE-1236).
FORMULA = ("=", "+", "-", "@")
LEADING = (
    *("hardware", "task", "backbone", "settings", "profile", "precision"),
    *("method", "entry_point", "variant", "point", "settings_of_point", "choice"),
    *("status", "seeds", "num_seeds", "shortfall"),
    *("quality_unit", "quality_direction"),
)


def csv(tables: Sequence[Table]) -> str:
    """The CSV as text. Text that a spreadsheet would run as a formula is prefixed with '."""
    lines = [_line(table, row) for table in tables for row in table.rows]
    # A program that joins results must see the failures too.
    lines += [line for table in tables for line in _unfinished_lines(table)]
    metrics = sorted({name for line in lines for name in line} - {*LEADING, "missing"}, key=_place)
    frame = pd.DataFrame(lines, columns=[*LEADING, *metrics, "missing"])
    # Numbers stay numbers: a leading minus is no formula there.
    text = [column for column in frame.columns if frame[column].dtype.kind not in "ifb"]
    frame[text] = frame[text].map(neutral)
    # Metric keys come from records, so that headers are untrusted too.
    return frame.rename(columns=neutral).to_csv(index=False, lineterminator="\n")


def neutral(value: Any) -> Any:
    """`value`, with text on one line and, if it begins like a formula, inert; numbers unchanged.

    Without control characters, which a terminal obeys, and marks that reverse a line.
    """
    if not isinstance(value, str):
        return value
    flat = " ".join(printable(value).split())  # a tab in front would hide the sign
    return "'" + flat if flat.startswith(FORMULA) else flat


def _place(name: str) -> tuple[str, int]:
    """Bounds stand right of their value."""
    for rank, suffix in enumerate(("_low", "_high"), start=1):
        if name.endswith(suffix):
            return name.removesuffix(suffix), rank
    return name, 0


def _line(table: Table, row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {
        **table_columns(table),
        "method": row.method,
        "variant": row.variant,
        "point": row.point,
        "status": "ok",
        "seeds": " ".join(map(str, row.seeds)),
        "num_seeds": len(row.seeds),
        "shortfall": row.shortfall,
        "entry_point": row.entry_point,
        "choice": row.choice,
        "settings_of_point": row.settings,
        **_verdicts(table, row),
        "quality_unit": row.cells[QUALITY.key].unit if QUALITY.key in row.cells else "",
        "quality_direction": table.quality.direction if table.quality else "",
    }
    for key, cell in row.cells.items():
        line[key] = cell.value
        if cell.low is not None or cell.high is not None:
            line |= {f"{key}_low": cell.low, f"{key}_high": cell.high}
    # All reasons in one column: one for each metric would double the width of the file.
    why = (f"{key}: {'; '.join(cell.reasons)}" for key, cell in row.cells.items() if cell.reasons)
    return {**line, "missing": " | ".join(why)}


def _verdicts(table: Table, row: Row) -> dict[str, str]:
    """`verdict_b64` and so on, "" where a batch size was not timed."""
    found = {size: answer(table, row, size) for size in SPEEDUP.batch_sizes(table.keys)}
    return {f"verdict_b{size}": str(each.verdict) for size, each in found.items() if each}


def _unfinished_lines(table: Table) -> list[dict[str, Any]]:
    return [
        {
            **table_columns(table),
            "method": found.record.labels.method,
            "variant": found.record.labels.variant,
            "status": found.record.status,
            "seeds": str(found.record.labels.seed),
            "num_seeds": 1,
            "missing": found.record.reason,
        }
        for found in table.found
        if found.record.status != "ok"
    ]


def table_columns(table: Table) -> dict[str, Any]:
    """What all rows of a table have in common."""
    first = table.found[0].record  # precision is part of the table's key
    return {
        "hardware": table.hardware,
        "task": table.task,
        "backbone": table.backbone,
        "settings": table.subtitle,
        "profile": table.profile,
        "precision": config_block(first, "gpu").get("precision"),
    }
