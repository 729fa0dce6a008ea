"""One finding of an examination: one line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# ok: present and working. no: not available on this machine, with the reason, and no error.
# warning: works, but numbers may suffer. failed: something required does not work; exit code 1.
Status = Literal["ok", "no", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """State of one thing: the part of the machine that it belongs to, in words and in numbers."""

    part: str
    name: str
    status: Status
    text: str
    details: dict[str, Any] = field(default_factory=dict)  # of JSON types
