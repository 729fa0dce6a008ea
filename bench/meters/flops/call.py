"""The input of a FLOP formula: one dispatched call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """FLOPs of one call: attention counted full, and with the causally masked half left out."""

    full: int
    causal: int


# Not frozen: one Call is made per dispatched op, and frozen dataclasses are slower to construct.
@dataclass(slots=True)
class Call:
    """An op's name, its arguments by schema name (defaults left out) and its output."""

    op: str
    arguments: Mapping[str, Any]
    output: Any

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or `default` where the caller left it to its schema default."""
        return self.arguments.get(name, default)

    @property
    def first(self) -> Any:
        """The first argument, whatever its name in the op's schema."""
        return next(iter(self.arguments.values()))

    @property
    def second(self) -> Any:
        """The second argument."""
        values = iter(self.arguments.values())  # in schema order
        next(values)
        return next(values)

    @property
    def result(self) -> Any:
        """The output tensor, or the first of several."""
        return self.output[0] if isinstance(self.output, (tuple, list)) else self.output
