"""Prose from docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.tasks.parts import docstrings

MODULE = '''"""Parses a header of a message, field by field.

    >>> x[0] == {1: (2, 3)} != [4, 5] + [6, 7]

Short.
"""
class Header:
    def parse(self):
        """Parses a header of a message,
        field by field.

        Raises ValueError where there is no colon."""
    async def undocumented(self): "%s"
'''


def test_words_are_lower_case_and_marks_stand_alone() -> None:
    """ "It's up to 3!" has the words it ' s up to 3 !."""
    assert docstrings.words("It's up to 3!") == ["it", "'", "s", "up", "to", "3", "!"]


def test_headings_and_code_are_not_prose() -> None:
    """40 characters of which at least half are letters: "a" * 20 + "." * 20 is the limit."""
    assert docstrings.is_prose("a" * 20 + "." * 20)
    assert not docstrings.is_prose("a" * 19 + "." * 21)
    assert not docstrings.is_prose("a" * 39)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path))
    docstrings.docstrings.cache_clear()
    yield tmp_path
    docstrings.docstrings.cache_clear()


def test_every_paragraph_of_prose_is_kept_once(library: Path) -> None:
    """Code, headings and paragraphs of an earlier docstring are dropped."""
    (library / "email").mkdir()
    (library / "email" / "header.py").write_text(MODULE)
    (library / "http.py").write_text('"""Raises ValueError where there is no colon."""')
    found = docstrings.docstrings(("email", "http"))
    assert [(len(paragraphs), place) for paragraphs, place in found] == [(1, 0), (1, 0)]
    assert found[0][0][0][:3] == ["parses", "a", "header"]
    assert found[1][0][0][0] == "raises"


def test_a_missing_package_is_an_error_that_names_it(library: Path) -> None:
    """A Python without the sources of a package cannot have the task."""
    with pytest.raises(FileNotFoundError, match="email"):
        docstrings.docstrings(("email",))
