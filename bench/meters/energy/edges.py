"""Edges: the moments at which the energy counter is updated.

The counter is constant between updates, which are 20 to 100 ms apart. Read at any moment it is up
to a period old, and a difference of two such readings is wrong by up to the energy of one period.
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
SHARP = 0.15  # largest width of a sharp edge, in periods
MIN_SHARP = 3  # sharp neighbours below which all count


@dataclass(frozen=True)
class Edge:
    """An update of the counter: its new value, and the two reads between which it changed."""

    energy_mj: int
    before_s: float  # the last read with the old value began
    after_s: float  # the first read with this one ended

    @property
    def time_s(self) -> float:
        """Time of the update: the middle, wrong by at most half the width."""
        return (self.before_s + self.after_s) / 2

    @property
    def width_s(self) -> float:
        """Seconds between the two reads."""
        return self.after_s - self.before_s


def wait_for_edge(
    board: Board,
    clock: Clock,
    timeout_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Edge:
    """Read the counter without a pause until it changes; `meanwhile` runs between two reads.

    Raises CounterStuck after `timeout_s` and CounterReset when the counter decreases.
    """
    begun_s = before_s = clock.now_s()
    old_mj = board.energy_mj()
    while True:
        meanwhile()
        # A read takes up to a millisecond, and longer where the thread is descheduled in it: its
        # value is of some moment between the two times.
        read_s = clock.now_s()
        new_mj = board.energy_mj()
        now_s = clock.now_s()
        refuse_backwards(old_mj, new_mj)
        if new_mj > old_mj:
            return Edge(new_mj, before_s, now_s)
        if read_s - begun_s > timeout_s:  # not `now_s`: this thread may have slept after the read
            raise CounterStuck(f"at {old_mj} mJ for {read_s - begun_s:.2g} s")
        before_s = read_s


def refuse_backwards(before_mj: int, after_mj: int) -> None:
    """Raise CounterReset where the counter has decreased."""
    if after_mj < before_mj:
        raise CounterReset(f"from {before_mj} to {after_mj} mJ")


def wait_for_sharp_edge(
    board: Board,
    clock: Clock,
    period_s: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Edge:
    """An update located to a seventh of the counter's period; on a busy host the best of five.

    Raises as `wait_for_edge` does, with a limit of five periods for each.
    """
    edges: list[Edge] = []
    while len(edges) < NUM_TRIES:
        edges.append(wait_for_edge(board, clock, NUM_PERIODS * period_s, meanwhile))
        if edges[-1].width_s <= SHARP * period_s:
            break
    return min(edges, key=lambda edge: edge.width_s)


def period_s(updates: Sequence[Edge]) -> float:
    """The typical time between updates, from neighbours that are both sharp.

    On a busy host reads are far apart: updates are then uncertain, and several may lie between two
    reads. Raises ValueError with fewer than two updates.
    """
    pairs = list(pairwise(updates))
    if not pairs:
        raise ValueError("a period needs two updates of the counter")
    rough_s = median(after.time_s - before.time_s for before, after in pairs)
    sharp = [
        after.time_s - before.time_s
        for before, after in pairs
        if max(before.width_s, after.width_s) <= rough_s / 4
    ]
    gaps = sharp if len(sharp) >= MIN_SHARP else [b.time_s - a.time_s for a, b in pairs]
    # Gaps of two and more periods hold an update that was missed.
    typical = median(gaps)
    single = [gap for gap in gaps if gap < 1.5 * typical]
    return sum(single) / len(single)


def counter_updates(samples: Sequence[Sample]) -> list[Edge]:
    """Every update of the counter in a trace. Raises CounterReset when the counter decreased."""
    found = []
    for before, after in pairwise(samples):
        refuse_backwards(before.energy_mj, after.energy_mj)
        if after.energy_mj > before.energy_mj:
            found.append(Edge(after.energy_mj, before.time_s, after.time_s))
    return found


def longest_unchanged_s(samples: Sequence[Sample]) -> float:
    """The longest time between samples of equal value; gaps in the polling do not count.

    Raises CounterReset when the counter decreased.
    """
    longest_s, first = 0.0, None
    for sample in samples:
        # Time counts from the first sample of a value, not from the last one before it.
        if first is None or sample.energy_mj != first.energy_mj:
            if first is not None:
                refuse_backwards(first.energy_mj, sample.energy_mj)
            first = sample
        longest_s = max(longest_s, sample.time_s - first.time_s)
    return longest_s
