"""Composition errors in one sentence: what is wrong, where, and which values are possible.

Errors are recognised by their attributes, so that Hydra is not imported here.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from bench.plugins import unknown

OWN_KEYS = "what only some methods have goes to hydra.sweeper.params: method.NAME.KEY: VALUE"


class PlanError(Exception):
    """Nothing can be planned; the message holds what is wrong, where, and the way out."""


def explain(error: BaseException, where: str) -> str:
    """One sentence for an error that came up while composing or setting a value.

    `where` is used unless the error itself names a file.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is not None:  # of YAML: file and line are exact
        problem = getattr(error, "problem", "not readable")
        return f"{mark.name}, line {mark.line + 1}: not readable as YAML: {problem}"
    # Hydra prefixes errors inside a file with its name in the configuration's tree.
    found = re.match(r"In '(.+?)': (.*)", str(error), re.DOTALL)
    where = f"conf/{found.group(1)}.yaml" if found else where
    cause = _cause(error)
    if cause is None:
        text = found.group(2) if found else str(error)
        return f"{where}: {' '.join(text.split())}"
    block = str(cause.full_key or "").partition(".")[0]
    hint = f" ({OWN_KEYS})" if found and block == "method" else ""
    return f"{where}: {_value_error(cause)}{hint}"


def _cause(error: BaseException) -> Any:
    """The error among `error` and its causes that holds the key that it is about."""
    # Hydra wraps OmegaConf's error once or twice; the innermost has key, node and type.
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "msg", None) and hasattr(seen, "full_key"):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _value_error(cause: Any) -> str:
    first = str(cause.msg).partition("\n")[0]  # then come the key and types, in lines of their own
    if not first.startswith("Key "):
        return f"{cause.full_key}: {first}" if cause.full_key else first
    # Without its package line an experiment's keys land below `experiment`, which is no block.
    if cause.full_key == "experiment":
        return "the file must begin with the line '# @package _global_' and set a key"
    block = str(cause.full_key or cause.key).rpartition(".")[0]
    return unknown("key", str(cause.key), _keys(cause), block)


def _keys(cause: Any) -> list[str]:
    """The keys that the block has where the error happened."""
    kind = cause.object_type
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind) if each.init]
    node = getattr(cause, "parent_node", None)
    return [str(key) for key in node] if node is not None else []
