"""Ranges of an inference-time setting: what `points()` offers for one trained model."""

from __future__ import annotations

MAX_COUNTS = 8  # values of one setting: each is another row that may be measured


def counts_up_to(largest: int, trained: int) -> list[int]:
    """`trained` first, then the other numbers from 1 to `largest`, at most MAX_COUNTS in all.

    Where there are more, they grow by a constant factor: 1, 2, 4, ..., `largest`.
    """
    largest = max(largest, trained)
    if largest <= MAX_COUNTS:
        return [trained, *(k for k in range(1, largest + 1) if k != trained)]
    steps = MAX_COUNTS - 2
    grown = {round(largest ** (step / steps)) for step in range(steps + 1)}
    return [trained, *sorted(grown - {trained})]
