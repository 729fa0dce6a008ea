"""Following counted work into other threads: a dispatch mode sees only its own.

Threads started, and work submitted to a thread pool, by code that is being counted carry a ledger
and the region they were sent from. A thread that was there before and works by itself carries
none: if it used CPU time meanwhile, the count is flagged (where /proc tells). Other processes, and
kernels that are launched without a torch op, are not seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bench import routing
from bench.meters.ledger import Ledger
from bench.meters.tally import Tally

# What an idle thread may burn (wake up, look, sleep on) before it counts as working.
_IDLE_NS, _IDLE_SHARE = 300_000, 0.02
_LAST_LINES_S = 0.2

_start, _submit = threading.Thread.start, ThreadPoolExecutor.submit
_patching = threading.RLock()
_num_counts = 0  # counts in progress, in all threads


def is_counting() -> bool:
    """Whether a FLOP count is in progress anywhere in this process."""
    return _num_counts > 0


def is_counted_here() -> bool:
    """Whether what the calling thread runs is being counted."""
    return _ledger_here() is not None


@contextmanager
def following(tally: Tally) -> Iterator[None]:
    """Let work that the code inside sends to other threads book into `tally`.

    Afterwards flags threads that are not finished, and threads that worked unseen.
    """
    _patch(+1)
    before, begin_ns = _cpu_times_ns(), time.perf_counter_ns()
    try:
        yield
    finally:
        _patch(-1)
    if not _finished(tally):
        tally.flag("thread::unfinished")
    allowed_ns = _IDLE_NS + _IDLE_SHARE * (time.perf_counter_ns() - begin_ns)
    for thread, now_ns in _cpu_times_ns().items():
        seen = thread.native_id in tally.followed or thread not in before
        if not seen and now_ns - before[thread] > allowed_ns:
            tally.flag(f"thread::{thread.name}")


def _finished(tally: Tally) -> bool:
    """Whether all carried work ends; a thread on its last lines gets a moment."""
    deadline = time.monotonic() + _LAST_LINES_S
    while tally.num_carried and time.monotonic() < deadline:
        time.sleep(0.001)
    return tally.num_carried == 0


def _patch(change: int) -> None:
    """Count one in or out; the first in replaces the two doors to other threads, the last out
    puts them back."""
    global _num_counts
    with _patching:
        _num_counts += change
        counting = _num_counts > 0
        threading.Thread.start = _start_carrying if counting else _start  # type: ignore
        ThreadPoolExecutor.submit = _submit_carrying if counting else _submit  # type: ignore


def _start_carrying(thread: threading.Thread) -> None:
    ledger = _ledger_here()
    if ledger is not None and not getattr(_pool, "is_hiring", False):
        thread.run = _carrying(ledger.tally, thread.run)  # type: ignore[method-assign]
    _start(thread)


_pool = threading.local()  # a pool's worker outlives the work: only the work carries a ledger


def _submit_carrying(
    pool: ThreadPoolExecutor, function: Callable, /, *args: Any, **kwargs: Any
) -> Future:
    ledger = _ledger_here()
    if ledger is None:
        return _submit(pool, function, *args, **kwargs)
    _pool.is_hiring = True
    try:
        return _submit(pool, _carrying(ledger.tally, function), *args, **kwargs)
    finally:
        _pool.is_hiring = False


def _ledger_here() -> Ledger | None:
    modes = _get_current_dispatch_mode_stack()
    return next((mode for mode in modes if isinstance(mode, Ledger)), None)


def _carrying(tally: Tally, function: Callable) -> Callable:
    """`function`, booking into `tally` in whichever thread runs it."""
    region = routing.current_region()
    with tally.lock:
        tally.num_carried += 1

    def carried(*args: Any, **kwargs: Any) -> Any:
        tally.followed.add(threading.get_native_id())
        try:
            with routing.region(region), Ledger(tally):
                return function(*args, **kwargs)
        finally:
            with tally.lock:
                tally.num_carried -= 1

    return carried


def _cpu_times_ns() -> dict[threading.Thread, int]:
    """CPU time of every other Python thread that the operating system tells."""
    here = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not here]
    times = {thread: _cpu_time_ns(thread) for thread in others}
    return {thread: spent for thread, spent in times.items() if spent is not None}


def _cpu_time_ns(thread: threading.Thread) -> int | None:
    try:
        text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0])
    except (OSError, ValueError):
        return None
