"""Tables as Markdown and as terminal text.

Every text of a record is untrusted: it is written so that Markdown reads no markup in it and a
terminal no control sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from bench.records.redaction import printable, unlinked
from bench.report.tables.legend import conditions, lines_below
from bench.report.tables.numbers import Text
from bench.report.tables.robustness import TITLE, Robustness, robustness
from bench.report.tables.sheet import Line, Sheet, sheet
from bench.report.tables.table import Table

TERMINAL_WIDTH = 120  # characters; a wider line wraps and the columns are lost
NAME_WIDTH = 34  # characters of the method column on a terminal


def markdown(tables: Sequence[Table]) -> str:
    """All tables as GitHub Markdown."""
    return "\n".join(_markdown_table(table) for table in tables)


def _markdown_table(table: Table) -> str:
    text = sheet(table)
    parts = [f"## {plain(table.title)}", plain(conditions(table))]
    if text.lines:
        parts.append(_grid(text))
    parts.append(_listed(lines_below(table, text)))
    hard = robustness(table)
    if hard is not None:
        parts += [f"### {TITLE}", _robust_grid(hard), _listed([*hard.findings, *hard.notes])]
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
    # disable_numparse: tabulate would drop the trailing zeros that are significant digits.
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
    # Bounds and not a half width: the interval of a ratio is not symmetric.
    tie = "no clear difference" if text.verdict == "tie" else ""
    marks = f"({text.marks})" if text.marks else ""
    return " ".join(part for part in (main, text.interval, tie, marks) if part)


def plain(text: str) -> str:
    """Untrusted text with its Markdown and HTML escaped."""
    flat = " ".join(printable(text).split())
    # The backslash first: it escapes the others. An underscore is left, as names are full of
    # them and GitHub reads none as emphasis within a word.
    for char in "\\`*|[]":
        flat = flat.replace(char, "\\" + char)
    # "&" before "<", whose entity contains one.
    return unlinked(flat.replace("&", "&amp;").replace("<", "&lt;"))


def terminal(tables: Sequence[Table]) -> str:
    """All tables as plain text, with the columns that fit about 120 characters."""
    return "\n\n".join(_terminal_table(table) for table in tables)


def _terminal_table(table: Table) -> str:
    text = sheet(table, narrow=True)  # the columns that decide, in the width of a terminal
    lines = [table.title, conditions(table)]
    if text.lines:
        grid = [cells for line in text.lines for cells in _lines(line)]
        lines += ["", *_aligned(_header(text), grid), ""]
    # printable() replaces control characters, with which a record could steer the terminal.
    return "\n".join(map(printable, lines + [f"  {line}" for line in lines_below(table, text)]))


def _header(text: Sheet) -> list[list[str]]:
    """The header's lines, each column's at the bottom."""
    columns = [column.header_lines for column in text.columns]
    height = max((len(lines) for lines in columns), default=1)
    # The unit is a header's last line, and stands right above the numbers.
    padded = [[""] * (height - len(lines)) + lines for lines in columns]
    names = [""] * (height - 1) + ["method"]
    return [[name, *cells] for name, *cells in zip(names, *padded, strict=True)]


def _lines(line: Line) -> Iterator[list[str]]:
    """The cells of a row; operating points, the default one too, are indented below their method.

    A name with its operating point in one line would leave no room for the columns. Remarks that
    do not fit are among the notes below the table.
    """
    row = line.row
    if row.settings and not row.point:
        yield [_shortened(row.method_name), *("" for _ in line.texts)]
    name = f"  {row.point_label}" if row.settings else row.name
    name = _shortened(line.with_remarks(name, NAME_WIDTH))
    yield [name, *map(_terminal_cell, line.texts)]


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _terminal_cell(text: Text) -> str:
    marks = f" ({text.marks})" if text.marks else ""
    return text.main + text.spread + (" tie" if text.verdict == "tie" else "") + marks


def _aligned(header: Sequence[Sequence[str]], lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to equal width, the first to the left; a rule below the header."""
    widths = [max(map(len, column)) for column in zip(*header, *lines, strict=True)]
    # Two blanks between columns where they fit; a wide table is set closer.
    gap = "  " if sum(widths) + 2 * len(widths) <= TERMINAL_WIDTH else " "
    texts = [
        gap.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in (*header, *lines)
    ]
    rule = gap.join("-" * width for width in widths)
    return [*texts[: len(header)], rule, *texts[len(header) :]]
