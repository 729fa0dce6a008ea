"""Small pieces of Markdown: tables, docstrings, code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; empty where there are no rows. Line breaks and bars inside of cells are escaped."""
    # A header without rows would be parsed as a paragraph of bars.
    lines = [_row([_cell(cell) for cell in row]) for row in rows]
    return [_row(header), _row(["---"] * len(header)), *lines, ""] if lines else []


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    # A bar ends a cell even inside of code, so it is escaped everywhere.
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """`text` as code; "" stays empty. Backticks inside need a longer fence."""
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def prose(text: str) -> list[str]:
    """The lines of a cleaned docstring, which is Markdown except for what looks like HTML.

    Indented lines are code in Markdown too, and a name such as <results> would be read as a tag.
    """
    return [line if line.startswith("    ") else escape(line) for line in text.splitlines()]


def escape(line: str) -> str:
    """`line` with every `<` outside of code spans as an entity."""
    parts = re.split(r"(`+[^`]*`+)", line)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
