"""Settings and functions at one moment, and what has changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.meters.shared.functions import changed_functions, functions_in_force
from bench.meters.shared.settings import changed_settings, settings_in_force

MAX_NAMED = 3  # changes that a message names; a patched class may be hundreds


class SharedStateChanged(Exception):
    """A plugin changed what it shares with the dense model; the message names what."""


class SharedState:
    """What all models of this process share, as it is when this object is made.

    `packages` are watched besides torch and the harness: those of the dense model and the task.
    """

    def __init__(self, packages: Sequence[str] = ()) -> None:
        self._packages = packages
        self._settings = settings_in_force()
        self._functions = functions_in_force(packages)

    def changes(self) -> list[str]:
        """What is different now, in phrases."""
        replaced = changed_functions(self._functions, functions_in_force(self._packages))
        return [*settings_changes(self._settings), *(f"{each} was replaced" for each in replaced)]

    def refuse_changes(self, doing: str) -> None:
        """Raises SharedStateChanged where something is different now."""
        _refuse(doing, self.changes())

    @contextmanager
    def kept(self, doing: str) -> Iterator[None]:
        """Raises SharedStateChanged where something is different after the block."""
        yield
        self.refuse_changes(doing)


@contextmanager
def settings_kept(doing: str) -> Iterator[None]:
    """Raises SharedStateChanged where the block leaves a setting changed; functions are not seen.

    In a fraction of a millisecond, where all functions take ten.
    """
    before = settings_in_force()
    yield
    _refuse(doing, settings_changes(before))


def settings_changes(before: Mapping[str, Any]) -> list[str]:
    """The settings that are different now, in phrases."""
    return changed_settings(before, settings_in_force())


def in_words(doing: str, changes: Sequence[str]) -> str:
    """At most three of the changes, and how many more there are."""
    more = len(changes) - MAX_NAMED
    named = "; ".join([*changes[:MAX_NAMED], *([f"and {more} more"] if more > 0 else [])])
    return f"{doing} changed what the dense model runs under too: {named}"


def _refuse(doing: str, changes: Sequence[str]) -> None:
    if changes:
        raise SharedStateChanged(in_words(doing, changes))
