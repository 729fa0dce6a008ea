"""The canary: a fixed workload that separates a changed machine from changed code.

It is part of no model and never changes. If its time changes, the machine has changed: clocks,
other processes, drivers, temperature. It consists of products, copies and many small operations,
because a machine may slow down in one of them only.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from bench.meters.time.stopwatch import stopwatch_for

SIZE = 384  # rows and columns of the products
NUM_SMALL = 50  # small operations, dominated by dispatch and launch
NUM_PASSES = 15


def canary(device: torch.device | str) -> Callable[[int], None]:
    """A function `run(n)`: n passes of the fixed workload, with the threads in force."""
    # A generator of its own leaves the global random state of a trial unchanged.
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(SIZE, SIZE, generator=generator).to(device)
    long = torch.zeros(4 * SIZE * SIZE, device=device)
    small = torch.zeros(64, device=device)

    def run(num_passes: int) -> None:
        with torch.inference_mode():
            for _ in range(num_passes):
                (square @ square) @ square  # 4 SIZE^3 FLOPs
                long.clone()
                for _ in range(NUM_SMALL):
                    small.add(1.0)

    return run


def measure_canary_s(device: torch.device | str) -> float:
    """Seconds of one pass of the canary on `device`: the median of 15, after three dry ones."""
    device = torch.device(device)
    run, watch = canary(device), stopwatch_for(device)
    run(3)
    return median(watch.measure(lambda: run(1)).host_s for _ in range(NUM_PASSES))
