"""The time left of a run, and durations as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean


def format_duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:  # 9.95 would print as "10.0 s" with one digit
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Forecast:
    """Estimates the seconds left from finished trials of the same group, else of any group."""

    left: Counter[str] = field(default_factory=Counter)  # trials per group that have not ended
    took_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def finished(self, group: str, status: str, took_s: float) -> None:
        """Register the end of a trial; only the duration of one that ended `ok` is used."""
        self.left[group] -= 1
        if status == "ok" and took_s > 0:
            self.took_s[group].append(took_s)

    def left_s(self, running: Sequence[tuple[str, float]]) -> float | None:
        """Seconds left; None before the first trial has ended ok.

        `running` holds (group, seconds so far) of each running trial. The estimate assumes that as
        many trials as now run in parallel until the end.
        """
        every = [value for values in self.took_s.values() for value in values]
        if not every:
            return None
        expected = {group: mean(self.took_s.get(group) or every) for group in self.left}
        total = sum(count * expected[group] for group, count in self.left.items())
        # A trial longer than expected must not reduce the time of the others.
        spent = sum(min(so_far, expected[group]) for group, so_far in running)
        return (total - spent) / max(1, len(running))
