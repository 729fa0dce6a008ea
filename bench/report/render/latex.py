"""Tables as LaTeX with booktabs, to be read into a paper with \\input.

Foreign text is escaped character by character; what no standard font has becomes its nearest
ASCII, so that the file compiles with any engine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from bench.report.tables.columns import Sheet, sheet
from bench.report.tables.legend import below, conditions
from bench.report.tables.numbers import Text
from bench.report.tables.rows import Table

PREAMBLE = r"% \usepackage{booktabs,graphicx} stands in the preamble of the document."
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
    "[": "{[}",  # after \\ a bracket would be read as an optional length
    "]": "{]}",
    "\u00b1": r"$\pm$",
    "\u2191": r"$\uparrow$",
    "\u2193": r"$\downarrow$",
}


def latex(tables: Sequence[Table]) -> str:
    """All tables as table environments, wide enough for the page."""
    return "\n\n".join([PREAMBLE, *map(_latex_table, tables)]) + "\n"


def _latex_table(table: Table) -> str:
    text = sheet(table)
    caption = escape(f"{table.title}. {conditions(table)}")
    notes = [rf"{escape(line)}\par" for line in [*below(table, text), BOUNDS]]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{caption}}}",
            *(_tabular(text) if text.lines else []),
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\scriptsize\raggedright",
            *notes,
            r"\end{minipage}",
            r"\end{table}",
        ]
    )


def _tabular(text: Sheet) -> list[str]:
    """The rows between booktabs' rules, scaled to the line's width."""
    heads = zip(*(column.header_lines for column in text.columns), strict=True)
    rows = [
        [r"\quad " * bool(line.row.point) + escape(line.nested_name), *map(_cell, line.texts)]
        for line in text.lines
    ]
    return [
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(text.columns)}}}",
        r"\toprule",
        *(_line(["", *map(escape, head)]) for head in heads),
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(text: Text) -> str:
    """A win in bold; a ratio's interval as its lower and upper bound behind it."""
    main = rf"\textbf{{{text.main}}}" if text.verdict == "better" else text.main
    main = "--" if main == "-" else main
    interval = rf"{{\scriptsize {escape(text.spread)}}}" if text.spread else ""
    if text.bounds:
        interval = rf"$_{{{text.bounds[0]}}}^{{{text.bounds[1]}}}$"
    tie = r" {\scriptsize tie}" if text.verdict == "tie" else ""
    marks = rf"$^{{\mathrm{{{text.marks}}}}}$" if text.marks else ""
    return main + interval + tie + marks


def escape(text: str) -> str:
    """`text` as characters that LaTeX prints and none that it obeys."""
    return "".join(map(_character, " ".join(text.split())))


def _character(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    if char.isascii() and char.isprintable():
        return char
    near = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(c, c) for c in near if c.isprintable()) or "?"
