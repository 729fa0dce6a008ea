"""The README stays true where a program can tell."""

from __future__ import annotations

from tests.readme_tree import shown, tree


def test_the_file_tree_is_that_of_the_house() -> None:
    """Every file has its phrase in the README; `python tests/readme_tree.py` rewrites them."""
    assert shown()[1] == tree()
