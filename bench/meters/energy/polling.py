"""Clocks, and reading a board at intervals beside the work: times are monotonic, never of day."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.meters.busy_threads import METER_THREADS

JITTER = 0.5  # of the interval: polls never fall into step with the load or with the sensor


@dataclass(frozen=True)
class Sample:
    """One look at a board: when, its counter, and its power at that moment."""

    time_s: float
    energy_mj: int
    power_w: float


class Clock(Protocol):
    """Seconds that only move forwards; tests bring simulated ones."""

    def now_s(self) -> float:
        """Now, on a monotonic clock of unknown origin."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class MonotonicClock:
    """The host's monotonic clock: no effect of a changed time of day."""

    def now_s(self) -> float:
        return time.monotonic_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Polling(Protocol):
    """A polling in progress."""

    def stop(self) -> list[Sample]:
        """End it; the samples in order. Raises what reading raised."""
        ...


Poll = Callable[[Callable[[], Sample], float], Polling]  # read, interval in seconds


class ThreadPolling:
    """Polls from a thread, at intervals that vary around `every_s`; NVML calls release the GIL."""

    def __init__(self, read: Callable[[], Sample], every_s: float) -> None:
        self._read, self._every_s = read, every_s
        self._samples: list[Sample] = []
        self._failure: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy-poll", daemon=True)
        METER_THREADS.add(self._thread)
        self._thread.start()

    def _run(self) -> None:
        vary = random.Random()  # the process's own random state stays as it is
        try:
            while not self._ended.is_set():
                self._samples.append(self._read())
                self._ended.wait(self._every_s * vary.uniform(1 - JITTER, 1 + JITTER))
        except Exception as error:  # raised again where the samples are asked for
            self._failure = error

    def stop(self) -> list[Sample]:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._samples


def integral_j(samples: Sequence[Sample], start_s: float, end_s: float) -> float | None:
    """Power integrated from `start_s` to `end_s` by trapezoids; None with fewer than two samples.

    Outside the first and last sample the power counts as theirs.
    """
    if len(samples) < 2:
        return None
    times = np.array([sample.time_s for sample in samples])
    powers = np.array([sample.power_w for sample in samples])
    inside = (times > start_s) & (times < end_s)
    borders = np.array([start_s, end_s])
    first, last = np.interp(borders, times, powers)
    grid = np.concatenate([[start_s], times[inside], [end_s]])
    return float(np.trapezoid(np.concatenate([[first], powers[inside], [last]]), grid))
