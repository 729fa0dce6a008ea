"""The rounds of a paired comparison: four blocks each, balanced against drift."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench.meters.shared.state import in_words
from bench.meters.time.clocks import DeviceState, StateReader
from bench.meters.time.stopwatch import Elapsed, Stopwatch


@dataclass(frozen=True)
class Round:
    """One round: four blocks. Seconds are per pass; `reason` is why the round is invalid."""

    order: str  # "ABBA" or "BAAB", A the candidate
    candidate_s: float
    baseline_s: float
    candidate_device_s: float | None = None
    baseline_device_s: float | None = None
    state: DeviceState | None = None
    reason: str | None = None

    @property
    def log_ratio(self) -> float:
        """log(baseline time / candidate time)."""
        return math.log(self.baseline_s / self.candidate_s)


def run_rounds(
    passes: tuple[Callable[[int], None], Callable[[int], None]],
    repeats: tuple[int, ...],
    rounds: int,
    watch: Stopwatch,
    read: StateReader,
    changes: Callable[[], Sequence[str]] = list,
) -> tuple[Round, ...]:
    """Rounds until `rounds` of them are valid, at most twice as many.

    `passes`: candidate and baseline, functions that run n passes; `repeats`: passes per block;
    `changes`: which settings, threads among them, are not as they were, after each block.
    """
    timed: list[Round] = []
    while sum(each.reason is None for each in timed) < rounds and len(timed) < 2 * rounds:
        # Either order cancels linear drift; alternating also cancels effects of coming first.
        order = "ABBA" if len(timed) % 2 == 0 else "BAAB"
        blocks: dict[str, list[Elapsed]] = {"A": [], "B": []}
        changed: list[str] = []
        for name in order:
            which = "AB".index(name)
            blocks[name].append(watch.measure(partial(passes[which], repeats[which])))
            # Between the blocks: a model that changes them for the other's block changes them back.
            changed += changes()
        # The state is read after the last block: a query in between would delay the next one.
        found = _round(order, blocks, repeats, read())
        timed.append(replace(found, reason=in_words("a block", changed)) if changed else found)
    return tuple(timed)


def _round(
    order: str,
    blocks: dict[str, list[Elapsed]],
    repeats: tuple[int, ...],
    state: DeviceState | None,
) -> Round:
    # Each model has two blocks of equally many passes.
    def per_pass(name: str, values: list[float]) -> float:
        return sum(values) / (len(values) * repeats["AB".index(name)])

    host = {name: per_pass(name, [e.host_s for e in elapsed]) for name, elapsed in blocks.items()}
    device: dict[str, float | None] = {}
    for name, elapsed in blocks.items():
        values = [e.device_s for e in elapsed if e.device_s is not None]
        device[name] = per_pass(name, values) if values else None
    reason = state.slowdown if state else None
    return Round(order, host["A"], host["B"], device["A"], device["B"], state, reason)
