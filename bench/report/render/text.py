"""Tables as Markdown and as terminal text.

Everything in a record is foreign text: it comes out as characters that a Markdown reader does not
take for markup and a terminal does not take for commands.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.records.redaction import printable
from bench.report.tables.columns import Line, Sheet, sheet
from bench.report.tables.legend import below, conditions
from bench.report.tables.numbers import Text
from bench.report.tables.robustness import TITLE, Robustness, robustness
from bench.report.tables.rows import Table

TERMINAL_WIDTH = 120
NAME_WIDTH = 34  # of the method column on a terminal


def markdown(tables: Sequence[Table]) -> str:
    """All tables as GitHub Markdown."""
    return "\n".join(_markdown_table(table) for table in tables)


def _markdown_table(table: Table) -> str:
    text = sheet(table)
    parts = [f"## {plain(table.title)}", plain(conditions(table))]
    if text.lines:
        parts.append(_grid(text))
    parts.append(_listed(below(table, text)))
    hard = robustness(table)
    if hard is not None:
        parts += [f"### {TITLE}", _robust_grid(hard), _listed([*hard.answers, *hard.notes])]
    return "\n\n".join(filter(None, parts)) + "\n"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _robust_grid(hard: Robustness) -> str:
    """One line per quantity and method."""
    rows = [
        [plain(block.title), plain(name), *map(_markdown_cell, texts)]
        for block in hard.blocks
        for name, texts in block.lines
    ]
    if not rows:
        return ""
    frame = pd.DataFrame(rows, columns=["", "method", *hard.conditions])
    align = ["left", "left"] + ["right"] * len(hard.conditions)
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align)


def _grid(text: Sheet) -> str:
    rows = [[plain(line.name), *map(_markdown_cell, line.texts)] for line in text.lines]
    headers = ["method", *(plain(column.header) for column in text.columns)]
    align = ["left"] + ["right"] * len(text.columns)
    frame = pd.DataFrame(rows, columns=headers)
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align)


def _markdown_cell(text: Text) -> str:
    main = f"**{text.main}**" if text.verdict == "better" else text.main
    tie = "tie" if text.verdict == "tie" else ""
    marks = f"({text.marks})" if text.marks else ""
    return " ".join(part for part in (main, text.interval, tie, marks) if part)


def plain(text: str) -> str:
    """Foreign text without Markdown or HTML in it."""
    flat = " ".join(printable(text).split())
    for char in "\\`*|":
        flat = flat.replace(char, "\\" + char)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def terminal(tables: Sequence[Table]) -> str:
    """All tables as plain text, with the columns that fit about 120 characters."""
    return "\n\n".join(_terminal_table(table) for table in tables)


def _terminal_table(table: Table) -> str:
    text = sheet(table, narrow=True)
    lines = [table.title, conditions(table)]
    if text.lines:
        headers = zip(*(column.header_lines for column in text.columns), strict=True)
        names = ("", "", "method")
        head = [[name, *header] for name, header in zip(names, headers, strict=True)]
        lines += ["", *_aligned(head + [_terminal_line(line) for line in text.lines]), ""]
    return "\n".join(map(printable, lines + [f"  {line}" for line in below(table, text)]))


def _terminal_line(line: Line) -> list[str]:
    name = "  " * bool(line.row.point) + line.nested_name
    short = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."
    return [short, *map(_terminal_cell, line.texts)]


def _terminal_cell(text: Text) -> str:
    marks = f" ({text.marks})" if text.marks else ""
    return text.main + text.spread + (" tie" if text.verdict == "tie" else "") + marks


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to equal width, the first to the left; a rule below the three header lines."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) <= TERMINAL_WIDTH else " "
    texts = [
        gap.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return [*texts[:3], gap.join("-" * width for width in widths), *texts[3:]]
