"""The paired rounds of two revisions: block by block, in two processes on one machine.

A round is four blocks, ABBA or alternately BAAB: slow drift hits both alike, and each round gives
one ratio of its own, candidate over baseline. The two are compared directly, so that a slowdown of
method and dense model alike is detected too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from bench.regress.revisions.worker_process import WorkerProcess

Sides = tuple[WorkerProcess, WorkerProcess]  # baseline, candidate


@dataclass
class TimedRounds:
    """The rounds of one workload; `measure` adds some."""

    sides: Sides
    work: str
    passes: int  # per block, the same on both sides
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    steady: bool = True

    def measure(self, num_rounds: int) -> list[float]:
        """Run `num_rounds` rounds; their log cost ratios, candidate over baseline."""
        start = len(self.seconds[0])
        # Numbered over all calls, so that ABBA and BAAB alternate where rounds are added.
        for number in range(start, start + num_rounds):
            self._run_round((0, 1, 1, 0) if number % 2 == 0 else (1, 0, 0, 1))
        return _log_ratios(self.seconds, start)

    def _run_round(self, order: tuple[int, ...]) -> None:
        spent = [0.0, 0.0]
        for which in order:
            reply = self.sides[which].call("block", work=self.work, passes=self.passes)
            spent[which] += reply["seconds"]
        for side, seconds in zip(self.seconds, spent, strict=True):
            side.append(seconds / (2 * self.passes))  # two blocks a side in each round

    @property
    def median_s(self) -> tuple[float, float]:
        """Median seconds of a pass: baseline, candidate."""
        return median(self.seconds[0]), median(self.seconds[1])


class NoEnergy(Exception):
    """A side has no valid joules; the message gives the reason."""


@dataclass
class EnergyWindows:
    """Energy windows in turns, one per side and round: AB, BA, AB, ..."""

    sides: Sides
    work: str
    window_s: float
    joules: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    doubt: str | None = None  # the first reason why the joules may not count

    def measure(self, num_rounds: int) -> list[float]:
        """Run `num_rounds` windows a side; their log cost ratios. Raises NoEnergy."""
        start = len(self.joules[0])
        for number in range(start, start + num_rounds):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                self.joules[which].append(self._run_window(self.sides[which]))
        return _log_ratios(self.joules, start)

    def _run_window(self, side: WorkerProcess) -> float:
        """Joules of one pass, above 0."""
        reply = side.call("window", work=self.work, seconds=self.window_s)
        if "refused" in reply:
            raise NoEnergy(f"{side.revision}: {reply['refused']}")
        self.doubt = self.doubt or reply["doubt"]
        # Below idle power a counter gives 0 or less, and its logarithm does not exist.
        if not reply["joules"] > 0:
            why = reply["doubt"] or f"{reply['joules']:.3g} J per pass"
            raise NoEnergy(f"{side.revision}: {why}")
        return float(reply["joules"])

    @property
    def mean_j(self) -> tuple[float, float]:
        """Mean joules of a pass: baseline, candidate."""
        return fmean(self.joules[0]), fmean(self.joules[1])


def _log_ratios(values: tuple[list[float], list[float]], start: int) -> list[float]:
    """log(candidate / baseline) of the rounds from number `start` on."""
    baseline, candidate = (side[start:] for side in values)
    return [math.log(new / old) for old, new in zip(baseline, candidate, strict=True)]


def open_both(sides: Sides, folders: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the trials in `folders` on both sides at once; the two replies."""
    # Both requests before the first reply: training is not timed and may overlap.
    for side, folder in zip(sides, folders, strict=True):
        side.send("open", folder=folder)
    first, second = (side.receive() for side in sides)
    return first, second


def warm_up(sides: Sides, work: str, block_ms: float) -> TimedRounds:
    """Warm both sides, one after the other; rounds with blocks of at least `block_ms`, to run."""
    replies = [side.call("warm", work=work) for side in sides]
    fastest_s = min(reply["pass_s"] for reply in replies)
    # The same number of passes on both sides: equal work in every block.
    passes = max(1, math.ceil(block_ms / 1e3 / fastest_s))
    return TimedRounds(sides, work, passes, steady=all(reply["steady"] for reply in replies))
