"""The parts of pages that are made from the code, without Sphinx."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sphinx.errors import ExtensionError

from docs.extensions import repository_links
from docs.extensions.fields import Field, class_fields
from docs.extensions.generated import FENCE, expand
from docs.extensions.markdown import code, escape, table
from tests.docs.pages import ROOT, name, pages

PAGES = [page for page in pages() if FENCE.search(page.read_text(encoding="utf-8"))]


@dataclass
class Settings:
    """A class with a field of every kind."""

    steps: int
    sizes: list[int] = field(default_factory=lambda: [1, 64])  # samples per batch
    # Two lines of comment
    # above a field.
    rate: float | None = None
    _hidden: int = 0


def test_fields_have_the_comment_beside_them() -> None:
    """Type, default and comment are those of the source; private fields are left out."""
    assert class_fields(Settings) == [
        Field("steps", "int", "", ""),
        Field("sizes", "list[int]", "[1, 64]", "samples per batch"),
        Field("rate", "float | None", "None", "Two lines of comment above a field."),
    ]


def test_cells_are_escaped() -> None:
    """A bar ends no cell, and what looks like a tag is text, except inside code."""
    assert table(["a"], [["x | y"]])[2] == "| x \\| y |"
    assert escape("<name> and `<name>`") == "&lt;name> and `<name>`"
    assert code("a`b") == "`` a`b ``"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_generated_part_has_content(page: Path) -> None:
    """No page shows an empty part, and none names a part or a class that is not there."""
    text = page.read_text(encoding="utf-8")
    expanded = expand(text)
    assert "{generated}" not in expanded
    assert len(expanded) > len(text)


def test_an_unknown_part_is_an_error() -> None:
    """A misspelt part is named."""
    with pytest.raises(ExtensionError, match="nothing to show"):
        expand("```{generated} feilds bench.config:Config\n```")


def test_links_out_of_the_pages_become_downloads_or_text() -> None:
    """A file is copied, a folder is text; what does not exist is left to Sphinx's warning."""
    docs = ROOT / "docs"
    page = docs / "explanation" / "findings.md"
    text = "[a](../../README.md#the-tree) [b](../../conf) [c](../../gone) [d](../index.md#x)"
    assert repository_links.rewrite(text, page, docs) == (
        "[a](path:../../README.md) b [c](../../gone) [d](../index.md#x)"
    )
