"""What an energy measurement stands on: board, clock, the GPU's queue, polling."""

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
    """Board and surroundings; tests bring simulated ones."""

    board: Board
    clock: Clock
    launches: Launches
    poll: Poll
    rng: random.Random = field(default_factory=random.Random)  # the process's own stays as it is

    def start_polling(self, every_s: float) -> Polling:
        """Counter and power every `every_s` seconds from now on, beside what this thread does."""
        return self.poll(self.sample, every_s)

    def sample(self) -> Sample:
        """Counter and power now."""
        return self.board.sample(self.clock)


@contextmanager
def open_rig(device: Device) -> Iterator[Rig]:
    """The real clock, a polling thread, and the board behind `device` (see `open_board`)."""
    with open_board(device) as board:
        launches: Launches = HostLaunches()
        if isinstance(device, torch.device):
            launches = CudaLaunches(device)
        yield Rig(board, MonotonicClock(), launches, ThreadPolling)
