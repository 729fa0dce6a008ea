"""The night's time limit: everything that waits checks it, so that a night ends in time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


class OutOfTime(Exception):
    """The night's time is used up; the message states the limit."""


@dataclass(frozen=True)
class Deadline:
    """When to stop: `limit_s` seconds after the start. The default never ends."""

    limit_s: float = math.inf  # `compare --rev` has no limit, `nightly` has
    started_s: float = field(default_factory=time.monotonic)  # not affected by clock changes

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s

    @property
    def left_s(self) -> float:
        """Seconds until the limit; negative after it."""
        return self.limit_s - self.spent_s

    def check(self) -> None:
        """Raise OutOfTime where no time is left."""
        if self.left_s <= 0:
            raise OutOfTime(f"the night's {self.limit_s / 60:g} min are used up")

    def __str__(self) -> str:
        """ "3.2 min of at most 20"."""
        limit = f" of at most {self.limit_s / 60:g}" if math.isfinite(self.limit_s) else ""
        return f"{self.spent_s / 60:.1f} min{limit}"
