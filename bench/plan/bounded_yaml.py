"""Configuration files within bounds: size, depth, and what aliases make of them.

Hydra opens the files of conf/ itself and offers no hook before it parses them, so OmegaConf's
`load` is replaced while it composes. A file of 1 KB in which aliases name lists of aliases stands
for 10^9 values, and takes minutes and all memory.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from omegaconf import OmegaConf

MAX_CHARACTERS = 200_000  # our largest file has 3,000
MAX_DEPTH = 50
MAX_VALUES = 20_000  # with every alias written out
ALIAS = re.compile(r"(?:^|[\s\[{,:-])\*\w")


class Unbounded(ValueError):
    """A file beyond the limits; the message says which."""


@contextmanager
def bounded_yaml() -> Iterator[None]:
    """Inside, OmegaConf loads only files within the limits; others raise Unbounded."""
    load = OmegaConf.load

    def checked(file: Any) -> Any:
        # Hydra gives an open file; its name stands in YAML's own errors.
        text = Named(file.read(MAX_CHARACTERS + 1), getattr(file, "name", "conf"))
        check(text.getvalue())
        return load(text)

    OmegaConf.load = staticmethod(checked)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        OmegaConf.load = staticmethod(load)  # type: ignore[method-assign]


class Named(io.StringIO):
    """Text in memory with a file's name."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def check(text: str) -> None:
    """Raise Unbounded where `text` is beyond the limits. What is no YAML is left to the parser."""
    if len(text) > MAX_CHARACTERS:
        raise Unbounded(f"more than {MAX_CHARACTERS:,} characters of YAML")
    # Brackets and indentation bound the depth from above without parsing, which recurses.
    indent = max((len(line) - len(line.lstrip()) for line in text.split("\n")), default=0)
    depth = _depth_of_brackets(text) + indent
    if depth > MAX_DEPTH or text.count("- - ") > MAX_DEPTH:
        raise Unbounded(f"nested more than {MAX_DEPTH} deep")
    if ALIAS.search(text):
        try:
            num_values = _num_values(yaml.compose(text, Loader=yaml.CSafeLoader), {}, ())
        except yaml.YAMLError:
            return
        if num_values > MAX_VALUES:
            raise Unbounded(f"more than {MAX_VALUES:,} values once its aliases are written out")


def _depth_of_brackets(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _num_values(node: Any, known: dict[int, int], inside: tuple[int, ...]) -> int:
    """The values that `node` stands for; each node is counted once and added as often as named."""
    if id(node) in inside:
        raise Unbounded("an alias that contains itself")
    if id(node) not in known:
        children = getattr(node, "value", None)
        found = children if isinstance(children, list) else []
        pairs = [each if isinstance(each, tuple) else (each,) for each in found]
        path = (*inside, id(node))
        counts = (_num_values(child, known, path) for pair in pairs for child in pair)
        known[id(node)] = 1 + sum(counts)
    return known[id(node)]
