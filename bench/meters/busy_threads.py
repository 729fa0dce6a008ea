"""Which older threads worked meanwhile: told by their CPU time, where /proc tells it (Linux)."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

# What an idle thread may burn (wake up, look, sleep on) before it counts as working. One that looks
# around every 20 ms takes about 0.2 % of a core.
IDLE_NS, IDLE_SHARE = 300_000, 0.005
# The meters' own threads, which add themselves: they read counters and compute nothing.
READERS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class Lookout:
    """Notes every other Python thread's CPU time at its beginning."""

    def __init__(self) -> None:
        self.before = _cpu_times_ns()
        self.begin_ns = time.perf_counter_ns()

    def busy(self) -> Iterator[threading.Thread]:
        """The threads that were there at the beginning and have used more than idling takes."""
        allowed_ns = IDLE_NS + IDLE_SHARE * (time.perf_counter_ns() - self.begin_ns)
        for thread, now_ns in _cpu_times_ns().items():
            if now_ns - self.before.get(thread, now_ns) > allowed_ns:
                yield thread


def _cpu_times_ns() -> dict[threading.Thread, int]:
    """CPU time of every other Python thread that the operating system tells."""
    here = threading.current_thread()
    others = [each for each in threading.enumerate() if each is not here and each not in READERS]
    times = {thread: _cpu_time_ns(thread) for thread in others}
    return {thread: spent for thread, spent in times.items() if spent is not None}


def _cpu_time_ns(thread: threading.Thread) -> int | None:
    try:
        text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0])
    except (OSError, ValueError):
        return None
