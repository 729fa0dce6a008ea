"""Stopwatches: elapsed time on the host always, on the device where there is one.

Host time is the monotonic clock around work that is bracketed by synchronisation. On a GPU the
device's own events are recorded beside it: device time far below host time means launch-bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Elapsed:
    """Seconds of one piece of work; `device_s` is None on a CPU."""

    host_s: float
    device_s: float | None = None


class Stopwatch(Protocol):
    """A clock that waits for queued work. Tests use simulated ones."""

    def now_s(self) -> float:
        """Seconds on a monotonic clock, after all queued work is done."""
        ...

    def measure(self, work: Callable[[], object]) -> Elapsed:
        """Run `work` once, to its end."""
        ...


class HostStopwatch:
    """The monotonic host clock: work on a CPU ends when the call returns."""

    def now_s(self) -> float:
        return time.perf_counter_ns() / 1e9

    def measure(self, work: Callable[[], object]) -> Elapsed:
        start = time.perf_counter_ns()
        work()
        return Elapsed((time.perf_counter_ns() - start) / 1e9)


class CudaStopwatch:
    """Host clock between synchronisations, CUDA events inside."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now_s(self) -> float:
        torch.cuda.synchronize(self.device)
        return time.perf_counter_ns() / 1e9

    def measure(self, work: Callable[[], object]) -> Elapsed:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_s = self.now_s()
        # The current stream, not the default one: models may run on a side stream.
        begin.record(torch.cuda.current_stream(self.device))
        work()
        end.record(torch.cuda.current_stream(self.device))
        # `now_s` synchronises, which `elapsed_time` (milliseconds) requires.
        return Elapsed(self.now_s() - start_s, begin.elapsed_time(end) / 1e3)


def stopwatch_for(device: torch.device) -> Stopwatch:
    """The stopwatch that waits for `device`."""
    return CudaStopwatch(device) if device.type == "cuda" else HostStopwatch()


def device_of(batch: object) -> torch.device:
    """The device of a batch's inputs; the CPU for anything without tensors."""
    inputs = getattr(batch, "inputs", batch)
    return inputs.device if isinstance(inputs, torch.Tensor) else torch.device("cpu")
