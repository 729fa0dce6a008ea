"""Prose from the docstrings of Python's standard library, read from the sources of this Python.

    docstrings(("email", "http")) -> [([["parses", "a", "header"], ...], 0), ..., ([...], 1)]

A docstring is a list of paragraphs, a paragraph a list of words. A paragraph of several docstrings
is kept in the first of them.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MIN_CHARACTERS = 40  # of a paragraph: shorter ones are headings and single lines of code
MIN_LETTER_SHARE = 0.5  # of a paragraph: tables and code have fewer letters
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Words = list[str]
Docstring = tuple[list[Words], int]  # its paragraphs, and the index of its package


@cache
def docstrings(packages: tuple[str, ...]) -> list[Docstring]:
    """Every docstring of the packages, with the paragraphs that no earlier docstring has."""
    seen: set[str] = set()
    found: list[Docstring] = []
    for place, package in enumerate(packages):
        for docstring in _read(package):
            new = []
            # White space normalised: line breaks differ between copies of a paragraph.
            for paragraph in (" ".join(part.split()) for part in docstring.split("\n\n")):
                if is_prose(paragraph) and paragraph not in seen:
                    seen.add(paragraph)
                    new.append(words(paragraph))
            if new:
                found.append((new, place))
    return found


def _read(package: str) -> Iterator[str]:
    """The docstrings of a package or module, file by file.

    Raises FileNotFoundError for a Python without the sources of its library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    # Sorted: the order of rglob depends on the file system, and the data's hash on the order.
    files = sorted((library / package).rglob("*.py")) or [library / f"{package}.py"]
    for path in files:
        for node in ast.walk(ast.parse(path.read_bytes())):  # parsed, never imported
            if isinstance(node, DOCUMENTED):
                yield ast.get_docstring(node) or ""


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is long enough and mostly letters."""
    num_letters = sum(character.isalpha() for character in paragraph)
    return len(paragraph) >= MIN_CHARACTERS and num_letters >= MIN_LETTER_SHARE * len(paragraph)


def words(paragraph: str) -> Words:
    """Words in lower case; each punctuation mark is a word of its own."""
    return re.findall(r"\w+|[^\w\s]", paragraph.lower())
