"""The night's time: whoever waits asks how much is left, so that a night ends within its limit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


class OutOfTime(Exception):
    """The night's time is used up; the message says how much that was."""


@dataclass(frozen=True)
class Deadline:
    """When to stop: `limit_s` seconds after the start. The default never ends."""

    limit_s: float = math.inf
    started_s: float = field(default_factory=time.monotonic)

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def left_s(self) -> float:
        return self.limit_s - self.spent_s

    def check(self) -> None:
        """Raise OutOfTime where nothing is left."""
        if self.left_s <= 0:
            raise OutOfTime(f"the night's {self.limit_s / 60:g} min are used up")

    def __str__(self) -> str:
        """ "3.2 min of at most 20"."""
        most = f" of at most {self.limit_s / 60:g}" if math.isfinite(self.limit_s) else ""
        return f"{self.spent_s / 60:.1f} min{most}"
