"""A page of docs/ with one table that a study writes, between two comments."""

from __future__ import annotations

from pathlib import Path


def split_page(page: Path, begin: str, end: str) -> tuple[str, str, str]:
    """The page before its table, the table, and what follows; `begin` and `end` enclose it."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after
