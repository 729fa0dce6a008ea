"""Each session's intervals against the median of the other sessions.

A session's ratios get the intervals that its table would show: the spread between processes is
pooled over the session's methods, per batch size. Such an interval should hold whatever the next
session measures of the same models. The median of the other sessions stands for that: of the
sessions themselves one in twenty is off by chance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.statistics.processes import BETWEEN_SESSIONS, Spread, pool, process_interval

MIN_SHARE = 0.90  # of the intervals must hold
MAX_OPPOSED = 1  # cells with significant ratios on both sides of 1
MIN_SESSIONS = 3  # with fewer, the median of the others is one session
Cell = tuple[str, int]  # method, batch size


@dataclass(frozen=True)
class Reading:
    """One cell in one session: a ratio with its interval, dense time / method time."""

    ratio: float
    low: float
    high: float
    sd: float  # between the processes of this session, pooled over its methods; of log ratios
    num_processes: int

    @property
    def sign(self) -> int:
        """1 where the whole interval lies above 1, -1 where it lies below, else 0."""
        return (self.low > 1) - (self.high < 1)


@dataclass(frozen=True)
class CellCoverage:
    """What all sessions found of one cell."""

    cell: Cell
    readings: tuple[Reading, ...]

    @property
    def held(self) -> list[bool]:
        """Whether each session's interval contains the median of the other sessions."""
        logs = [math.log(each.ratio) for each in self.readings]
        others = [float(np.median(logs[:k] + logs[k + 1 :])) for k in range(len(logs))]
        return [
            math.log(each.low) <= other <= math.log(each.high)
            for each, other in zip(self.readings, others, strict=True)
        ]

    @property
    def is_opposed(self) -> bool:
        """Whether one session found it faster and another slower, both significantly."""
        return {-1, 1} <= {each.sign for each in self.readings}

    @property
    def session_sd(self) -> float:
        """Standard deviation of the log ratio from session to session."""
        return float(np.std([math.log(each.ratio) for each in self.readings], ddof=1))

    @property
    def expected_sd(self) -> float:
        """What the spread between processes alone makes of a session's mean."""
        squares = [each.sd**2 / each.num_processes for each in self.readings]
        return math.sqrt(float(np.mean(squares)))


def readings_of(session: Mapping[str, Any]) -> dict[Cell, Reading]:
    """The readings of one session that a table would show."""
    medians: dict[Cell, list[float]] = {}
    by_size: dict[int, list[list[float]]] = defaultdict(list)
    for method, sizes in session["cells"].items():
        for size, found in sizes.items():
            # Withheld in a table: it never settled, or graphs were compiled inside.
            if found["reason"] is None:
                medians[method, int(size)] = found["process_log_ratios"]
                by_size[int(size)].append(found["process_log_ratios"])
    spreads = {size: pool(trials) for size, trials in by_size.items()}
    found = {cell: _reading(logs, spreads[cell[1]]) for cell, logs in medians.items()}
    return {cell: reading for cell, reading in found.items() if reading is not None}


def _reading(medians: Sequence[float], pooled: Spread | None) -> Reading | None:
    interval = process_interval(medians, pooled, BETWEEN_SESSIONS).map(math.exp)
    if interval.low is None or interval.high is None or interval.value is None or pooled is None:
        return None
    return Reading(interval.value, interval.low, interval.high, pooled.sd, len(medians))


def coverage_of(sessions: Iterable[Mapping[str, Any]]) -> list[CellCoverage]:
    """Every cell of the sessions of one training, by batch size and method.

    Raises ValueError with fewer than three sessions of a cell.
    """
    found: dict[Cell, list[Reading]] = defaultdict(list)
    for session in sessions:
        for cell, reading in readings_of(session).items():
            found[cell].append(reading)
    for (method, size), readings in found.items():
        if len(readings) < MIN_SESSIONS:
            raise ValueError(
                f"{method} at batch {size}: {len(readings)} sessions are not enough, "
                f"{MIN_SESSIONS} are needed"
            )
    if not found:
        raise ValueError(f"no session yet: {MIN_SESSIONS} are needed")
    by_size = sorted(found, key=lambda cell: (cell[1], cell[0]))
    return [CellCoverage(cell, tuple(found[cell])) for cell in by_size]


def share_held(cells: Sequence[CellCoverage]) -> float:
    """The share of all intervals that hold."""
    held = [each for cell in cells for each in cell.held]
    return sum(held) / len(held)


def between_sessions(cells: Sequence[CellCoverage]) -> float:
    """Standard deviation between sessions beyond what their processes explain; of log ratios.

    The cells' mean: a cell alone has few sessions. 0 where processes explain more than there is.
    """
    beyond = [cell.session_sd**2 - cell.expected_sd**2 for cell in cells]
    return math.sqrt(max(0.0, float(np.mean(beyond))))


def failures(cells: Sequence[CellCoverage]) -> list[str]:
    """The acceptance limits that are missed."""
    found = []
    if share_held(cells) < MIN_SHARE:
        found.append(f"{share_held(cells):.0%} of the intervals hold, {MIN_SHARE:.0%} are required")
    opposed = [f"{cell.cell[0]} at batch {cell.cell[1]}" for cell in cells if cell.is_opposed]
    if len(opposed) > MAX_OPPOSED:
        found.append(f"significant opposite answers for {', '.join(opposed)}")
    return found


def rows(cells: Sequence[CellCoverage]) -> list[list[str]]:
    """The table's rows; see HEADERS."""
    return [
        [
            cell.cell[0],
            str(cell.cell[1]),
            f"{np.median(ratios := [each.ratio for each in cell.readings]):.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            f"+-{np.median([each.high / each.low for each in cell.readings]) ** 0.5 - 1:.1%}",
            f"{sum(cell.held)} of {len(cell.held)}",
            f"{cell.session_sd:.1%}",
            f"{cell.expected_sd:.1%}",
            "yes" if cell.is_opposed else "no",
        ]
        for cell in cells
    ]


HEADERS = [
    *("method", "batch", "median speed-up", "sessions", "typical interval", "hold"),
    *("sd of sessions", "expected from processes", "opposite answers"),
]


def retraining_rows(
    first: Sequence[CellCoverage], other: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """Medians of sessions of the first training and of `other`'s, per cell that both have."""
    found: dict[Cell, list[float]] = defaultdict(list)
    for session in other:
        for cell, reading in readings_of(session).items():
            found[cell].append(reading.ratio)
    both = [cell for cell in first if cell.cell in found]
    return [
        [
            cell.cell[0],
            str(cell.cell[1]),
            f"{(old := float(np.median([each.ratio for each in cell.readings]))):.3f}",
            f"{(new := float(np.median(found[cell.cell]))):.3f}",
            f"{new / old - 1:+.1%}",
        ]
        for cell in both
    ]


RETRAINING_HEADERS = ["method", "batch", "first training", "trained again", "difference"]
