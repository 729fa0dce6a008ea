"""A contract, and the two findings besides "kept": broken, and not defined for this method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Broken(Exception):
    """A contract does not hold; the message says what was found.

    `gate` names the gate to look at, `line` the place where it is known exactly.
    """

    def __init__(self, message: str, *, gate: str | None = None, line: str | None = None) -> None:
        super().__init__(message)
        self.gate, self.line = gate, line


class NotDefined(Exception):
    """The contract says nothing about this method; the message gives the reason."""


@dataclass(frozen=True)
class Contract:
    """One promise of reference/contract.md; `attempt` raises Broken or NotDefined, or returns.

    Where a `prerequisite` is broken on a task, later contracts mean nothing there: compared with
    NaN, every result differs.
    """

    name: str
    promise: str
    attempt: Callable[[Any], None]  # a Candidate, or a TaskCandidate
    prerequisite: bool = False
