"""Waiting for the moment when the energy counter moves.

The counter stands still between updates, which are 20 to 100 ms apart: read at any moment it is up
to an update old, and a difference of two such readings is wrong by up to the power of one period.
Read just after an update it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bench.meters.energy.board import Board
from bench.meters.energy.polling import Clock, Sample
from bench.meters.energy.refusals import CounterReset, CounterStuck

NUM_PERIODS = 5  # without an update: stuck
NUM_TRIES = 5  # for a sharp edge
SHARP = 0.1  # of a period between the looks around an edge
MIN_SHARP = 3


@dataclass(frozen=True)
class Edge:
    """An update of the counter: what it shows now, and between which two looks it moved."""

    energy_mj: int
    before_s: float  # the last look that showed the old value
    after_s: float  # the first that showed this one

    @property
    def time_s(self) -> float:
        """When it moved: half way, wrong by at most half the time between the looks."""
        return (self.before_s + self.after_s) / 2

    @property
    def width_s(self) -> float:
        """The time between the two looks."""
        return self.after_s - self.before_s


def wait_for_edge(
    board: Board,
    clock: Clock,
    timeout_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Edge:
    """Look at the counter without a pause until it moves; `meanwhile` runs between two looks.

    Raises CounterStuck after `timeout_s` and CounterReset when it moves backwards.
    """
    old_mj = board.energy_mj()
    begun_s = before_s = clock.now_s()
    while True:
        meanwhile()
        looked_s = clock.now_s()
        new_mj = board.energy_mj()
        now_s = clock.now_s()
        refuse_backwards(old_mj, new_mj)
        if new_mj > old_mj:
            return Edge(new_mj, before_s, now_s)
        if looked_s - begun_s > timeout_s:  # not `now_s`: we may have slept after the look
            raise CounterStuck(f"at {old_mj} mJ for {looked_s - begun_s:.2g} s")
        before_s = now_s


def refuse_backwards(before_mj: int, after_mj: int) -> None:
    """Raise CounterReset where the counter shows less than before."""
    if after_mj < before_mj:
        raise CounterReset(f"from {before_mj} to {after_mj} mJ")


def wait_for_sharp_edge(
    board: Board,
    clock: Clock,
    period_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Edge:
    """An update seen to a tenth of the counter's period; on a busy host the best of five.

    Raises as `wait_for_edge` does, which waits five periods for each.
    """
    edges: list[Edge] = []
    while len(edges) < NUM_TRIES:
        edges.append(wait_for_edge(board, clock, NUM_PERIODS * period_s, meanwhile))
        if edges[-1].width_s <= SHARP * period_s:
            break
    return min(edges, key=lambda edge: edge.width_s)


def period_s(moves: Sequence[Edge]) -> float:
    """The typical time between updates, from neighbours that were both seen sharply.

    On a busy host looks are far apart: their updates are uncertain, and several may have passed
    between them. Raises ValueError with fewer than two moves.
    """
    pairs = list(pairwise(moves))
    if not pairs:
        raise ValueError("a period needs two updates of the counter")
    rough_s = median(after.time_s - before.time_s for before, after in pairs)
    sharp = [
        after.time_s - before.time_s
        for before, after in pairs
        if max(before.width_s, after.width_s) <= rough_s / 4
    ]
    gaps = sharp if len(sharp) >= MIN_SHARP else [b.time_s - a.time_s for a, b in pairs]
    typical = median(gaps)
    single = [gap for gap in gaps if gap < 1.5 * typical]
    return sum(single) / len(single)


def moves(samples: Sequence[Sample]) -> list[Edge]:
    """Every update of the counter in a trace. Raises CounterReset when it went backwards."""
    found = []
    for before, after in pairwise(samples):
        refuse_backwards(before.energy_mj, after.energy_mj)
        if after.energy_mj > before.energy_mj:
            found.append(Edge(after.energy_mj, before.time_s, after.time_s))
    return found


def longest_silence_s(samples: Sequence[Sample]) -> float:
    """How long the counter was seen at one value; time in which nobody looked convicts nobody.

    Raises CounterReset when it went backwards.
    """
    longest_s, first = 0.0, None
    for sample in samples:
        if first is None or sample.energy_mj != first.energy_mj:
            if first is not None:
                refuse_backwards(first.energy_mj, sample.energy_mj)
            first = sample
        longest_s = max(longest_s, sample.time_s - first.time_s)
    return longest_s
