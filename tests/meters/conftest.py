"""A clock that only a simulated model advances: timing tests without real time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.meters.time.stopwatch import Elapsed


class SimulatedStopwatch:
    """Seconds that pass when `advance` is called; `device_share` makes it a GPU's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.device_share: float | None = None
        self.blocks: list[float] = []

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def now_s(self) -> float:
        return self.now

    def measure(self, work: Callable[[], object]) -> Elapsed:
        start = self.now
        work()
        spent = self.now - start
        self.blocks.append(spent)
        return Elapsed(spent, None if self.device_share is None else spent * self.device_share)


@pytest.fixture
def clock() -> SimulatedStopwatch:
    """A fresh simulated clock."""
    return SimulatedStopwatch()
