"""Values of a record's free-form part, taken only where they have the expected type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
MAX_NAMES = 6  # in one line


def entry_of(value: Any) -> Entry:
    """A JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def entries_of(value: Any) -> list[Entry]:
    """The objects of a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def names_of(value: Any) -> list[str]:
    """The texts of a list."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def number_of(value: Any) -> float | None:
    """A finite number, else None. True and False are not numbers here."""
    # bool is a subclass of int, so that it must be excluded first.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def numbers_of(value: Any) -> list[float]:
    """All of a list's finite numbers, or an empty list: a gap would shift the positions."""
    if not isinstance(value, list):
        return []
    found = [number_of(each) for each in value]
    return [each for each in found if each is not None] if None not in found else []


def listed(names: Sequence[str]) -> str:
    """The first names of a list that may be long: `a, b and 2 more`."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
