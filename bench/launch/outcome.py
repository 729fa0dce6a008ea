"""How the trials of a queue ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """How one trial ended: `ok`, `skipped` or `failed` as in its record, or `interrupted`."""

    folder: Path
    status: str
    reason: str | None = None
    took_s: float = 0.0  # 0 where it ran in another launcher, or not at all
    phases_s: dict[str, float] = field(default_factory=dict)  # seconds in each reported phase


@dataclass
class Summary:
    """The outcomes of the trials, in the order in which they ended."""

    outcomes: list[Outcome] = field(default_factory=list)
    num_left: int = 0  # not run, or ended by an interrupt

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt left trials that a rerun would resume."""
        return self.num_left > 0

    def count(self, status: str) -> int:
        """Number of trials that ended with `status`."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 if every trial ended ok or skipped, else 1."""
        return 1 if self.interrupted or self.count("failed") else 0
