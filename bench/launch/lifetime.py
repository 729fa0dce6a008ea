"""Binds a trial's process to its launcher, and what a trial starts to the trial.

No crash or `kill -9` of the launcher leaves an orphan: two mechanisms, because neither is enough
alone. The kernel's parent-death signal only follows the direct parent, which is the fork server and
not the launcher; the thread that waits for the launcher only runs while this process is healthy.

No process that a trial starts outlives it, in a session of its own or not, nor keeps its locks. A
trial is the parent of every descendant whose own parent has ended (a subreaper), so that its
descendants can be listed at any moment of its life. After a crash the fork server is.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

PATIENCE_S = 5.0  # with a process that is in the kernel


def end_with_launcher() -> None:
    """Kill this process group as soon as the launcher is gone, also by `kill -9`."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "not started by multiprocessing"

    def watch() -> None:
        # Signals must reach the main thread, which they wake from a blocking call.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        connection.wait([launcher.sentinel])  # readable when the launcher's end of it is closed
        kill(descendants(os.getpid()))
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()
    die_with_parent()


def die_with_parent() -> None:
    """Request SIGKILL from the kernel when the parent process ends (Linux; elsewhere a no-op)."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_descendants() -> None:
    """Become the parent of every descendant whose parent ends (Linux; elsewhere a no-op)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def keep_to_this_process(files: Sequence[int]) -> None:
    """Close these open files in every process that this one forks or executes."""

    def close() -> None:
        for file in files:
            with suppress(OSError):  # closed by other code meanwhile
                os.close(file)

    for file in files:
        os.set_inheritable(file, False)
    os.register_at_fork(after_in_child=close)


def kill_descendants() -> None:
    """Kill all that this process has started, directly or not (Linux; elsewhere a no-op).

    Repeated until nothing is left: a process may fork while the others are being listed.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := descendants(os.getpid())) and time.monotonic() < deadline_s:
        kill(found)
        for each in found:
            with suppress(ChildProcessError):  # not a child yet, or reaped by other code
                os.waitpid(each.pid, os.WNOHANG)
        time.sleep(0.001)


class Process(NamedTuple):
    """A process, and when it started: numbers of processes are given out again."""

    pid: int
    started: int  # clock ticks since the machine started


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL to each of these processes that still runs."""
    running = {found for found, _ in _running()}
    for each in running.intersection(processes):
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)


def kill_orphans(server: int, trials: Collection[int]) -> None:
    """Kill what trials that have ended left to the fork server `server`; `trials` still run.

    Repeated until nothing is left, as above.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while (found := _orphans(server, trials)) and time.monotonic() < deadline_s:
        kill(found)
        time.sleep(0.001)


def _orphans(server: int, trials: Collection[int]) -> list[Process]:
    running = dict(_running())
    # Processes of the server's own session are not ours: every trial has left it.
    session = next((each.session for found, each in running.items() if found.pid == server), None)
    kept = {each for trial in trials for each in _below(trial, running)}
    return [
        each
        for each in _below(server, running)
        if each not in kept and each.pid not in trials and running[each].session != session
    ]


def descendants(pid: int) -> list[Process]:
    """Running descendants of process `pid`, itself not included; none outside Linux."""
    return _below(pid, dict(_running()))


def _below(pid: int, running: Mapping[Process, Place]) -> list[Process]:
    children: dict[int, list[Process]] = {}
    for found, place in running.items():
        children.setdefault(place.parent, []).append(found)
    all_, left = [], [pid]
    while left:
        more = children.get(left.pop(), [])
        all_ += more
        left += [each.pid for each in more]
    return all_


class Place(NamedTuple):
    """Where a process stands: the numbers of its parent and of its session's leader."""

    parent: int
    session: int


def _running() -> Iterator[tuple[Process, Place]]:
    """Every running process."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            # The command is in parentheses and may hold any character; the state comes next.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                place = Place(int(fields[1]), int(fields[3]))
                yield Process(int(entry.parent.name), int(fields[19])), place


def child_with(word: str) -> int | None:
    """The child of this process whose command line holds `word`; None where there is none."""
    for found, place in _running():
        if place.parent == os.getpid():
            with suppress(OSError):  # ended meanwhile
                if word.encode() in Path(f"/proc/{found.pid}/cmdline").read_bytes():
                    return found.pid
    return None


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)
