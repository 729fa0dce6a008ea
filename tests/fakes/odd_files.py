"""What may stand in the place of a file, and a limit on how long a call may wait for it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def _socket(path: Path) -> None:
    # A socket's name is short: bound from within its folder.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room


ODDITIES: dict[str, Callable[[Path], object]] = {
    "fifo": lambda path: os.mkfifo(path),
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "socket": _socket,
    "terabyte": _sparse,
    "loop": lambda path: path.symlink_to(path),
    "nowhere": lambda path: path.symlink_to(path.with_name("nowhere")),
    "empty": lambda path: path.write_bytes(b""),
}


def put(oddity: str, path: Path) -> None:
    """Put an oddity in the place of `path`, whatever is there."""
    path.unlink(missing_ok=True)
    ODDITIES[oddity](path)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError where the block waits longer: a FIFO has no writer, and never will."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"still waiting after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
