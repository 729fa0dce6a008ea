"""Tables as LaTeX with booktabs, to be read into a paper with \\input.

pandas' Styler writes the tabular. The cells are escaped here and not by the Styler, which leaves
brackets and non-ASCII characters: what no standard font has becomes its nearest ASCII, so that
the file compiles with any engine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import pandas as pd

from bench.report.tables.legend import conditions, lines_below
from bench.report.tables.numbers import Text
from bench.report.tables.sheet import Line, Sheet, sheet
from bench.report.tables.table import Table

PREAMBLE = r"% \usepackage{booktabs,graphicx} belongs in the preamble of the document."
BOUNDS = "Sub- and superscripts of a speed-up: bounds of its interval."
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{char: rf"\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    # At the start of a row, behind the \\ of the one before, these would be its arguments.
    **{char: f"{{{char}}}" for char in "[]*"},
    "\u00b1": r"$\pm$",
    "\u2191": r"$\uparrow$",
    "\u2193": r"$\downarrow$",
}


def latex(tables: Sequence[Table]) -> str:
    """All tables as table environments, scaled to the width of the line."""
    return "\n\n".join([PREAMBLE, *map(_latex_table, tables)]) + "\n"


def _latex_table(table: Table) -> str:
    text = sheet(table)
    caption = escape(f"{table.title}. {conditions(table)}")
    notes = [rf"{escape(line)}\par" for line in [*lines_below(table, text), BOUNDS]]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{caption}}}",
            *([_tabular(text)] if text.lines else []),
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\scriptsize\raggedright",
            *notes,
            r"\end{minipage}",
            r"\end{table}",
        ]
    )


def _tabular(text: Sheet) -> str:
    """The rows between booktabs' rules, scaled to the width of the line."""
    heads = [column.header_lines for column in text.columns]
    height = max(map(len, heads))
    # One level per header line: a LaTeX cell does not wrap.
    levels = [[""] * height, *([""] * (height - len(lines)) + lines for lines in heads)]
    columns = pd.MultiIndex.from_tuples([tuple(map(escape, lines)) for lines in levels])
    rows = [[_name(line), *map(_cell, line.texts)] for line in text.lines]
    tabular = (
        pd.DataFrame(rows, columns=columns)
        .style.hide(axis="index")  # names are a column: an index would need to be unique
        .to_latex(
            hrules=True,
            column_format="l" + "r" * len(text.columns),
            sparse_columns=False,  # equal header words of neighbours stay apart
        )
    )
    return "\\resizebox{\\linewidth}{!}{%\n" + tabular.rstrip() + "}"


def _name(line: Line) -> str:
    """The row's name; a further operating point is indented below its method."""
    return rf"\quad {escape(line.nested_name)}" if line.row.point else escape(line.name)


def _cell(text: Text) -> str:
    """A win in bold; the interval of a ratio as its lower and upper bound behind it."""
    main = rf"\textbf{{{text.main}}}" if text.verdict == "better" else text.main
    main = "--" if main == "-" else main
    interval = rf"{{\scriptsize {escape(text.spread)}}}" if text.spread else ""
    # In print a column of [low, high] is too wide: bounds become sub- and superscript.
    if text.bounds:
        interval = rf"$_{{{text.bounds[0]}}}^{{{text.bounds[1]}}}$"
    tie = r" {\scriptsize tie}" if text.verdict == "tie" else ""
    marks = rf"$^{{\mathrm{{{text.marks}}}}}$" if text.marks else ""
    return main + interval + tie + marks


def escape(text: str) -> str:
    """`text` as characters that LaTeX prints, none of them active."""
    # Blank lines end a paragraph, and a table cell must not hold one.
    return "".join(map(_character, " ".join(text.split())))


def _character(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    if char.isascii() and char.isprintable():
        return char
    # NFKD splits an accented letter into the letter and a mark, which ASCII drops.
    near = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(c, c) for c in near if c.isprintable()) or "?"
