"""README.md: short, with numbers that a published run gives and a tree that is there."""

from __future__ import annotations

import re

import pytest

from tests.studies import readme_table

TEXT = readme_table.README.read_text(encoding="utf-8")
TREE = TEXT.partition("## The tree\n\n```\n")[2].partition("```")[0].splitlines()
LONGEST, LONGEST_TREE = 120, 25  # lines


def test_it_is_short() -> None:
    """The page and its tree stay within their limits."""
    assert len(TEXT.splitlines()) <= LONGEST
    assert 10 < len(TREE) <= LONGEST_TREE


def test_the_table_is_what_the_published_run_gives() -> None:
    """`python -m tests.studies.readme_table --write` rewrites it."""
    assert readme_table.shown().splitlines() == list(readme_table.table())


def test_the_table_has_six_rows_and_six_columns() -> None:
    """One row per method beside dense, each with its name and five numbers."""
    header, _, *rows = [line for line in readme_table.shown().splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert {line.count("|") for line in (header, *rows)} == {7}


@pytest.mark.parametrize("top", ["bench", "methods"])
def test_the_tree_names_every_room(top: str) -> None:
    """Each folder and file at the top of bench/ and methods/ is there, and nothing else is."""
    start = TREE.index(f"{top}/") + 1
    lines = _until_unindented(TREE[start:])
    # Names are separated from the description by two spaces or more.
    named = {word for line in lines for word in re.split(r" {2,}", line.strip())[0].split()}
    folder = readme_table.ROOT / top
    rooms = {f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.name for path in folder.glob("*.py") if path.name != "__init__.py"}
    assert named == rooms


def test_every_other_line_of_the_tree_is_there() -> None:
    """Files and folders at the top of the repository that the tree names exist."""
    names = [re.split(r" {2,}", line)[0] for line in TREE if not line.startswith(" ")]
    missing = [n for name in names for n in name.split() if not (readme_table.ROOT / n).exists()]
    assert missing == []


def _until_unindented(lines: list[str]) -> list[str]:
    for number, line in enumerate(lines):
        if not line.startswith(" "):
            return lines[:number]
    return lines
