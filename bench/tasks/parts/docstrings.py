"""Prose from the docstrings of Python's standard library, read from the sources of this Python.

    docstrings(("email", "http")) -> [([["parses", "a", "header"], ...], 0), ..., ([...], 1)]

A docstring is its paragraphs, a paragraph its words. A paragraph that stands in several docstrings
is kept where it comes first.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SHORTEST = 40  # characters of a paragraph: shorter ones are headings and single lines of code
PROSE = 0.5  # least share of letters in a paragraph: tables and code have fewer
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Words = list[str]
Docstring = tuple[list[Words], int]  # its paragraphs, and the place of its package


@cache
def docstrings(packages: tuple[str, ...]) -> list[Docstring]:
    """Every docstring of the packages with the paragraphs that no earlier one has."""
    seen: set[str] = set()
    found: list[Docstring] = []
    for place, package in enumerate(packages):
        for docstring in _read(package):
            new = []
            for paragraph in (" ".join(part.split()) for part in docstring.split("\n\n")):
                if is_prose(paragraph) and paragraph not in seen:
                    seen.add(paragraph)
                    new.append(words(paragraph))
            if new:
                found.append((new, place))
    return found


def _read(package: str) -> Iterator[str]:
    """The docstrings of a package or module, file by file."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted((library / package).rglob("*.py")) or [library / f"{package}.py"]
    for path in files:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, DOCUMENTED):
                yield ast.get_docstring(node) or ""


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is long enough and mostly letters."""
    num_letters = sum(character.isalpha() for character in paragraph)
    return len(paragraph) >= SHORTEST and num_letters >= PROSE * len(paragraph)


def words(paragraph: str) -> Words:
    """Words in lower case, and punctuation marks each by itself."""
    return re.findall(r"\w+|[^\w\s]", paragraph.lower())
