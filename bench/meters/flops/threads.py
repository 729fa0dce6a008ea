"""Following counted work into other threads: a dispatch mode sees only its own.

Threads started, and work submitted to a thread pool, by code that is being counted get a ledger
and the region that they were sent from. A thread that existed before and works on its own gets
none: if it used CPU time meanwhile, the count is flagged. Meters that can only see their own
thread list the same events (`watch_other_threads`). Other processes, and kernels that are launched
without a torch op, are not seen.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bench import routing
from bench.meters.busy_threads import CpuTimeSnapshot
from bench.meters.flops.ledger import Ledger
from bench.meters.flops.tally import Tally

_LAST_LINES_S = 0.2  # after its result is out, a thread still runs a few lines of its own

# The three ways into another thread, as Python defines them. autograd's threads need no patch:
# they inherit the dispatch modes of the thread that called backward.
_start, _submit = threading.Thread.start, ThreadPoolExecutor.submit
_start_bare = _thread.start_new_thread
_patching = threading.RLock()
_num_counts = 0  # counts in progress, in all threads
_num_patches = 0  # those, and the windows of `watch_other_threads`
# Per thread. `started`: names for a window of this thread; `is_starting_worker`: inside `submit`.
_here = threading.local()


def is_counting() -> bool:
    """Whether a FLOP count is in progress anywhere in this process."""
    return _num_counts > 0


def is_counted_here() -> bool:
    """Whether ops of the calling thread are being counted."""
    return ledger_here() is not None


@contextmanager
def follow_threads(tally: Tally) -> Iterator[None]:
    """Record work that the code inside sends to other threads in `tally` as well.

    Afterwards flags threads that have not finished, and older threads that worked uncounted.
    """
    _patch(+1, counts=1)
    snapshot = CpuTimeSnapshot()
    try:
        yield
    finally:
        _patch(-1, counts=-1)
    if not _all_finished(tally):
        tally.flag("thread::unfinished")
    for thread in snapshot.busy_threads():
        if thread.native_id not in tally.counted_threads:
            tally.flag(f"thread::{thread.name}")


@contextmanager
def watch_other_threads() -> Iterator[list[str]]:
    """Names of other threads that work during the block; the list is complete at its end.

    These are threads that this one starts or sends work to, and older ones that used CPU time.
    """
    names: list[str] = []
    before, _here.started = getattr(_here, "started", None), names  # windows may nest
    _patch(+1)
    snapshot = CpuTimeSnapshot()
    try:
        yield names
    finally:
        _patch(-1)
        _here.started = before
        names += [thread.name for thread in snapshot.busy_threads()]


def _all_finished(tally: Tally) -> bool:
    """Whether all work sent to other threads has ended, after a short grace period."""
    deadline = time.monotonic() + _LAST_LINES_S
    while tally.num_pending and time.monotonic() < deadline:
        time.sleep(0.001)
    return tally.num_pending == 0


def _patch(change: int, counts: int = 0) -> None:
    """Count one user in or out: the first in replaces the three entries, the last out restores."""
    global _num_counts, _num_patches
    with _patching:
        _num_counts += counts
        _num_patches += change
        active = _num_patches > 0
        threading.Thread.start = _start_with_ledger if active else _start  # type: ignore
        ThreadPoolExecutor.submit = _submit_with_ledger if active else _submit  # type: ignore
        _thread.start_new_thread = _start_bare_with_ledger if active else _start_bare


def _start_with_ledger(thread: threading.Thread) -> None:
    # A pool's worker outlives the work: only the work is listed and gets a ledger.
    if not getattr(_here, "is_starting_worker", False):
        _list_thread(thread.name)
        ledger = ledger_here()
        if ledger is not None:
            thread.run = _with_ledger(ledger.tally, thread.run)  # type: ignore[method-assign]
    _start(thread)


def _start_bare_with_ledger(function: Callable, *args: Any, **kwargs: Any) -> int:
    _list_thread("a bare thread")
    ledger = ledger_here()
    followed = function if ledger is None else _with_ledger(ledger.tally, function)
    return _start_bare(followed, *args, **kwargs)


def _submit_with_ledger(
    pool: ThreadPoolExecutor, function: Callable, /, *args: Any, **kwargs: Any
) -> Future:
    _list_thread("a thread pool")
    ledger = ledger_here()
    followed = function if ledger is None else _with_ledger(ledger.tally, function)
    # `submit` may start a worker, through `Thread.start`, from inside this call.
    _here.is_starting_worker = True
    try:
        return _submit(pool, followed, *args, **kwargs)
    finally:
        _here.is_starting_worker = False


def _list_thread(name: str) -> None:
    started = getattr(_here, "started", None)
    if started is not None:
        started.append(name)


def ledger_here() -> Ledger | None:
    """The ledger that records the calling thread's ops; None where nothing is counted."""
    modes = _get_current_dispatch_mode_stack()
    return next((mode for mode in modes if isinstance(mode, Ledger)), None)


def _with_ledger(tally: Tally, function: Callable) -> Callable:
    """`function`, counted into `tally` in whichever thread runs it."""
    region = routing.current_region()  # of the sender: regions are per thread
    with tally.lock:
        tally.num_pending += 1

    def followed(*args: Any, **kwargs: Any) -> Any:
        tally.counted_threads.add(threading.get_native_id())
        try:
            # A ledger of its own: a mode object must not be entered in two threads at once.
            with routing.region(region), Ledger(tally):
                return function(*args, **kwargs)
        finally:
            with tally.lock:
                tally.num_pending -= 1

    return followed
