"""Monotonic clocks, and polling of a board beside the work."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.meters.busy_threads import METER_THREADS

JITTER = 0.5  # of the interval: constant ones could alias with the load or with the sensor


@dataclass(frozen=True)
class Sample:
    """One reading of a board: time, counter and power at that moment."""

    time_s: float
    energy_mj: int
    power_w: float


class Clock(Protocol):
    """A clock that never runs backwards; tests use simulated ones."""

    def now_s(self) -> float:
        """Now, on a monotonic clock of unknown origin."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after `seconds` on this clock."""
        ...


class MonotonicClock:
    """The host's monotonic clock, which changes of the time of day do not affect."""

    def now_s(self) -> float:
        return time.monotonic_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Polling(Protocol):
    """A running poll."""

    def stop(self) -> list[Sample]:
        """End it and return the samples in order. Raises the exception of a failed read."""
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
        # Otherwise its CPU time would flag a FLOP count that runs beside it as incomplete.
        METER_THREADS.add(self._thread)
        self._thread.start()

    def _run(self) -> None:
        vary = random.Random()  # the process's own random state stays as it is
        try:
            while not self._ended.is_set():
                self._samples.append(self._read())
                self._ended.wait(self._every_s * vary.uniform(1 - JITTER, 1 + JITTER))
        except Exception as error:  # raised again by `stop`, in the measuring thread
            self._failure = error

    def stop(self) -> list[Sample]:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._samples


def integral_j(samples: Sequence[Sample], start_s: float, end_s: float) -> float | None:
    """Power integrated from `start_s` to `end_s` by trapezoids; None with fewer than two samples.

    Before the first and after the last sample the power is taken as theirs.
    """
    if len(samples) < 2:
        return None
    # The borders fall between samples: power there is interpolated.
    times = np.array([sample.time_s for sample in samples])
    powers = np.array([sample.power_w for sample in samples])
    inside = (times > start_s) & (times < end_s)
    borders = np.array([start_s, end_s])
    first, last = np.interp(borders, times, powers)
    grid = np.concatenate([[start_s], times[inside], [end_s]])
    return float(np.trapezoid(np.concatenate([[first], powers[inside], [last]]), grid))
