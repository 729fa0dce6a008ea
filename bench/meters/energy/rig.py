"""The parts of an energy measurement: board, clock, queue of the GPU, polling."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from bench.meters.energy.board import Board, Device, open_board
from bench.meters.energy.launches import CudaLaunches, HostLaunches, Launches
from bench.meters.energy.polling import (
    Clock,
    MonotonicClock,
    Poll,
    Polling,
    Sample,
    ThreadPolling,
)


@dataclass(frozen=True)
class Rig:
    """A board with clock, queue and polling; tests use simulated ones."""

    board: Board
    clock: Clock
    launches: Launches
    poll: Poll
    rng: random.Random = field(default_factory=random.Random)  # leaves the global one untouched

    def start_polling(self, every_s: float) -> Polling:
        """Sample counter and power about every `every_s` seconds, beside this thread's work."""
        return self.poll(self.sample, every_s)

    def sample(self) -> Sample:
        """Counter and power now."""
        return self.board.sample(self.clock)


@contextmanager
def open_rig(device: Device) -> Iterator[Rig]:
    """The real clock, a polling thread, and the board behind `device` (see `open_board`)."""
    with open_board(device) as board:
        launches: Launches = HostLaunches()  # a board named by UUID has no torch device
        if isinstance(device, torch.device):
            launches = CudaLaunches(device)
        yield Rig(board, MonotonicClock(), launches, ThreadPolling)
