"""Detection of older threads that worked during a measurement, by their CPU time (Linux: /proc)."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

# CPU time that an idle thread may use (wake up, check, sleep again) before it counts as working.
# One that polls every 20 ms takes about 0.2 % of a core.
IDLE_NS, IDLE_SHARE = 300_000, 0.005
# Threads of the meters themselves, which register here: they read counters and compute nothing.
METER_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class CpuTimeSnapshot:
    """CPU time of every other Python thread at the moment of construction."""

    def __init__(self) -> None:
        self.before = _cpu_times_ns()
        self.begin_ns = time.perf_counter_ns()

    def busy_threads(self) -> Iterator[threading.Thread]:
        """Threads that existed at the snapshot and have used more CPU time since than idling."""
        allowed_ns = IDLE_NS + IDLE_SHARE * (time.perf_counter_ns() - self.begin_ns)
        for thread, now_ns in _cpu_times_ns().items():
            # Threads started since are followed by another mechanism: `flops.threads`.
            if now_ns - self.before.get(thread, now_ns) > allowed_ns:
                yield thread


def _cpu_times_ns() -> dict[threading.Thread, int]:
    """CPU time of every other Python thread for which the operating system reports it."""
    here = threading.current_thread()
    others = [t for t in threading.enumerate() if t is not here and t not in METER_THREADS]
    times = {thread: _cpu_time_ns(thread) for thread in others}
    return {thread: spent for thread, spent in times.items() if spent is not None}


def _cpu_time_ns(thread: threading.Thread) -> int | None:
    """None where the thread has ended meanwhile, and outside Linux."""
    try:
        # schedstat counts nanoseconds; stat counts ticks of 10 ms, too coarse for IDLE_NS.
        text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0])
    except (OSError, ValueError):
        return None
