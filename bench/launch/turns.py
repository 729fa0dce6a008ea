"""First come, first served: the runs of this machine in the order in which they began.

Every run has a ticket, a locked file in the folder of the device locks that holds what the run
waits for. A run leaves a device to the runs before it that wait for it, also between two of their
trials. The kernel releases the lock when the run's process ends, so that no dead run is waited for.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

QUEUE = "queue"  # below the folder of the device locks
HOST = "cpu"
Choices = Iterable[tuple[str, ...]]  # sets of GPUs, any of which will do; the empty set is the CPU


@dataclass
class Turn:
    """One run's place in the queue."""

    path: Path
    file: int
    waits_for: tuple[str, ...] = ()

    def wait_for(self, choices: Choices) -> None:
        """State what this run's next trial needs; nothing where it has no trial left."""
        devices = tuple(sorted({device for gpus in choices for device in (gpus or (HOST,))}))
        if devices != self.waits_for:
            self.waits_for = devices
            content = json.dumps({"pid": os.getpid(), "devices": devices}).encode()
            # One write, and spaces after it: a reader never sees a part of the old content alone.
            os.pwrite(self.file, content.ljust(os.fstat(self.file).st_size), 0)

    def ahead(self, gpus: tuple[str, ...]) -> list[int]:
        """The processes of earlier runs that wait for a device which `gpus` would take."""
        earlier = (path for path in _tickets(self.path.parent) if path.name < self.path.name)
        found = [_read(path) for path in earlier]
        return [pid for pid, devices in found if _conflict(gpus, devices)]


@contextmanager
def take_turn(locks: Path) -> Iterator[Turn]:
    """Join the queue of the runs that share the device locks in `locks`, until the block ends."""
    folder = locks / QUEUE
    folder.mkdir(mode=0o700, exist_ok=True)
    # Locked under another name first: a ticket that can be found is always locked.
    draft = folder / f".{os.getpid()}-{time.time_ns()}"
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    path = draft.rename(folder / f"{time.time_ns():020d}-{os.getpid()}")
    try:
        yield Turn(path, file)
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _conflict(gpus: tuple[str, ...], devices: Iterable[str]) -> bool:
    """Whether a trial on `gpus` (none: on the CPU) leaves no room for one of those `devices`."""
    # A CPU trial has the whole host.
    return any(not gpus or each == HOST or each in gpus for each in devices)


def _tickets(folder: Path) -> Iterator[Path]:
    """Tickets of live runs, the earliest first; those of dead ones are removed."""
    for path in sorted(folder.glob("[0-9]*")):
        with suppress(OSError):  # its run ended meanwhile
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                yield path
            finally:
                os.close(file)


def _read(ticket: Path) -> tuple[int, list[str]]:
    """Process and devices of a ticket; no devices where it waits for none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(ticket.read_text(encoding="utf-8"))
        return int(content["pid"]), [str(each) for each in content["devices"]]
    return 0, []
