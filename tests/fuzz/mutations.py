"""Mutations of files: bytes, lines and words of a text, and values at any place of a JSON tree."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 10**400, 1.5, -0.0, 1e-320, 1e308, -1e308),
    *(float("nan"), float("inf"), "", "1", "true", "fake", "FAKE", "cuda", "ms", "furlong", " "),
    *("x" * 5000, "\x1b[2J", "\u202e", "\ud800", "../../../tmp", "/", ".", "~", "=1+1", "a\nb"),
    *("[x](javascript:alert(1))", "<script>", "$\\frac{", "%s%n", "\0", "${oc.env:HOME}"),
    *([], {}, [[]], [1], {"a": 1}, [None] * 100, {"": {"": {}}}),
)
ODD_BYTES = (b"\0", b"\xff", b'"', b"\\", b"[", b"{", b"}" * 3, b"[" * 300, b"e999", b"NaN", b"-")
ODD_WORDS = (
    *("=", ",", ":", "- ", "[", "{", "(", "'", '"', "${", "*a", "&a ", "!!python/object:x ", "~"),
    *("null", "1e999", "-1", "\t", "\u202e", "\ud800", "...", "/", "+", "++", "~", "#", "|", ">"),
    *("range(1,9)", "glob(*)", "choice(", "interval(0,1)", "@", "\\", "% ", "nan", "9" * 400),
)


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """`content` with a few bytes changed, cut, doubled or put in."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 5)):
        place = chance.randrange(len(found) + 1)
        length = chance.choice((0, 1, 1, 2, 8, 100))
        new = chance.choice((b"", chance.randbytes(2), chance.choice(ODD_BYTES), found[:length]))
        found[place : place + length] = new
    return bytes(found)


def mutated_text(text: str, chance: random.Random) -> str:
    """`text` with a few words, characters or lines changed."""
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(text) + 1)
        length = chance.choice((0, 0, 1, 4))
        text = text[:place] + chance.choice(ODD_WORDS) + text[place + length :]
        if chance.random() < 0.2:
            lines = text.split("\n")
            chance.shuffle(lines)
            text = "\n".join(lines)
    return text


def mutated_json(content: Any, chance: random.Random) -> str:
    """`content` as JSON, with values at one to three places changed, moved, or there twice."""
    found = copy.deepcopy(content)
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(list(_places(found)))
        what = chance.random()
        if what < 0.6:
            holder[key] = chance.choice(ODD_VALUES)
        elif what < 0.75:
            del holder[key]
        elif what < 0.85 and isinstance(holder[key], int | float):
            holder[key] *= chance.choice((-1, 0, 1e6, 0.5))
        else:
            other, name = chance.choice(list(_places(found)))
            other[name] = copy.deepcopy(holder[key])
        if not isinstance(found, dict) or not found:
            break
    text = json.dumps(found)
    if chance.random() < 0.1:  # a key twice
        text = text.replace('": ', '": 1, "', 1).replace(", ", ": ", 1)
    return text


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key or index) below `content`."""
    found: list[tuple[Any, Any]] = []
    items: Any = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        found.append((content, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found
