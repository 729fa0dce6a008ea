"""Two revisions in turns: their paired rounds, block by block, in two processes on one machine.

A round is four blocks, ABBA or alternately BAAB: slow drift hits both alike, and each round gives
one ratio of its own, candidate over baseline. Nothing stands between the two: what slows method
and dense model alike is seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from bench.regress.revisions.partner import Partner

Sides = tuple[Partner, Partner]  # baseline, candidate


@dataclass
class Rounds:
    """The rounds of one piece of work; `more` adds some."""

    sides: Sides
    work: str
    passes: int  # per block, the same on both sides
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    steady: bool = True

    def more(self, num_rounds: int) -> list[float]:
        """Run `num_rounds` rounds; their log cost ratios, candidate over baseline."""
        start = len(self.seconds[0])
        for number in range(start, start + num_rounds):
            self._round((0, 1, 1, 0) if number % 2 == 0 else (1, 0, 0, 1))
        baseline, candidate = (side[start:] for side in self.seconds)
        return [math.log(new / old) for old, new in zip(baseline, candidate, strict=True)]

    def _round(self, order: tuple[int, ...]) -> None:
        spent = [0.0, 0.0]
        for which in order:
            told = self.sides[which].ask("block", work=self.work, passes=self.passes)
            spent[which] += told["seconds"]
        for side, seconds in zip(self.seconds, spent, strict=True):
            side.append(seconds / (2 * self.passes))

    @property
    def median_s(self) -> tuple[float, float]:
        """Median seconds of a pass: baseline, candidate."""
        return median(self.seconds[0]), median(self.seconds[1])


class NoEnergy(Exception):
    """A side has no joules; the message says why."""


@dataclass
class Windows:
    """Energy windows in turns, one per side and round: AB, BA, AB, ..."""

    sides: Sides
    work: str
    window_s: float
    joules: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    doubt: str | None = None

    def more(self, num_rounds: int) -> list[float]:
        """Run `num_rounds` windows a side; their log cost ratios. Raises NoEnergy."""
        start = len(self.joules[0])
        for number in range(start, start + num_rounds):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                told = self.sides[which].ask("window", work=self.work, seconds=self.window_s)
                if "refused" in told:
                    raise NoEnergy(f"{self.sides[which].revision}: {told['refused']}")
                self.doubt = self.doubt or told["doubt"]
                if not told["joules"] > 0:
                    why = told["doubt"] or f"a pass of {told['joules']:.3g} J"
                    raise NoEnergy(f"{self.sides[which].revision}: {why}")
                self.joules[which].append(told["joules"])
        baseline, candidate = (side[start:] for side in self.joules)
        return [math.log(new / old) for old, new in zip(baseline, candidate, strict=True)]

    @property
    def mean_j(self) -> tuple[float, float]:
        """Mean joules of a pass: baseline, candidate."""
        return fmean(self.joules[0]), fmean(self.joules[1])


def open_both(sides: Sides, folders: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let both train at once; what each says of itself."""
    for side, folder in zip(sides, folders, strict=True):
        side.send("open", folder=folder)
    first, second = (side.receive() for side in sides)
    return first, second


def warmed(sides: Sides, work: str, block_ms: float) -> Rounds:
    """Both warm, one after the other, and ready for rounds of blocks of at least `block_ms`."""
    told: list[Mapping[str, Any]] = [side.ask("warm", work=work) for side in sides]
    fastest_s = min(each["pass_s"] for each in told)
    passes = max(1, math.ceil(block_ms / 1e3 / fastest_s))
    return Rounds(sides, work, passes, steady=all(each["steady"] for each in told))
