"""Following counted work into other threads: a dispatch mode sees only its own.

Threads started, and work submitted to a thread pool, by code that is being counted carry a ledger
and the region they were sent from. A thread that was there before and works by itself carries
none: if it used CPU time meanwhile, the count is flagged. Meters that can only see their own
thread notice the same events (`noticing`). Other processes, and kernels that are launched without
a torch op, are not seen.
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
from bench.meters.busy_threads import Lookout
from bench.meters.flops.ledger import Ledger
from bench.meters.flops.tally import Tally

_LAST_LINES_S = 0.2

_start, _submit = threading.Thread.start, ThreadPoolExecutor.submit
_start_bare = _thread.start_new_thread
_patching = threading.RLock()
_num_counts = 0  # counts in progress, in all threads
_num_watches = 0  # those, and windows that only notice
_here = threading.local()  # `noticed`: names for a meter of this thread; `is_hiring`: see below


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
    _patch(+1, counts=1)
    lookout = Lookout()
    try:
        yield
    finally:
        _patch(-1, counts=-1)
    if not _finished(tally):
        tally.flag("thread::unfinished")
    for thread in lookout.busy():
        if thread.native_id not in tally.followed:
            tally.flag(f"thread::{thread.name}")


@contextmanager
def noticing() -> Iterator[list[str]]:
    """Names of other threads that this one starts or sends work to inside, or that work by
    themselves; complete at the end."""
    names: list[str] = []
    before, _here.noticed = getattr(_here, "noticed", None), names
    _patch(+1)
    lookout = Lookout()
    try:
        yield names
    finally:
        _patch(-1)
        _here.noticed = before
        names += [thread.name for thread in lookout.busy()]


def _finished(tally: Tally) -> bool:
    """Whether all carried work ends; a thread on its last lines gets a moment."""
    deadline = time.monotonic() + _LAST_LINES_S
    while tally.num_carried and time.monotonic() < deadline:
        time.sleep(0.001)
    return tally.num_carried == 0


def _patch(change: int, counts: int = 0) -> None:
    """Count one in or out; the first in replaces the three doors to other threads, the last out
    puts them back."""
    global _num_counts, _num_watches
    with _patching:
        _num_counts += counts
        _num_watches += change
        watching = _num_watches > 0
        threading.Thread.start = _start_carrying if watching else _start  # type: ignore
        ThreadPoolExecutor.submit = _submit_carrying if watching else _submit  # type: ignore
        _thread.start_new_thread = _start_bare_carrying if watching else _start_bare


def _start_carrying(thread: threading.Thread) -> None:
    # A pool's worker outlives the work: only the work is noticed and carries a ledger.
    if not getattr(_here, "is_hiring", False):
        _notice(thread.name)
        ledger = _ledger_here()
        if ledger is not None:
            thread.run = _carrying(ledger.tally, thread.run)  # type: ignore[method-assign]
    _start(thread)


def _start_bare_carrying(function: Callable, *args: Any, **kwargs: Any) -> int:
    _notice("a bare thread")
    ledger = _ledger_here()
    carried = function if ledger is None else _carrying(ledger.tally, function)
    return _start_bare(carried, *args, **kwargs)


def _submit_carrying(
    pool: ThreadPoolExecutor, function: Callable, /, *args: Any, **kwargs: Any
) -> Future:
    _notice("a thread pool")
    ledger = _ledger_here()
    carried = function if ledger is None else _carrying(ledger.tally, function)
    _here.is_hiring = True
    try:
        return _submit(pool, carried, *args, **kwargs)
    finally:
        _here.is_hiring = False


def _notice(name: str) -> None:
    noticed = getattr(_here, "noticed", None)
    if noticed is not None:
        noticed.append(name)


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
