"""What a doctor says: one line per thing looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "no", "warning", "failed"]
# ok: there, works. no: not on this machine, with the reason; nothing is wrong. warning: works, but
# numbers may suffer. failed: something that must work does not; the exit code is then 1.


@dataclass(frozen=True)
class Finding:
    """One thing looked at: in which part of the machine, how it is, in words and in numbers."""

    part: str
    name: str
    status: Status
    text: str
    details: dict[str, Any] = field(default_factory=dict)
