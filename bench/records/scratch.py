"""Temporary folders that a killed process does not leave for ever: the next one removes them.

    with Scratch() as folder: ...

A folder is removed at the end of its block. Where its process was killed before that, any later
process of the same user that makes such a folder removes it, worktrees and environments included.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PREFIX = "condbench-"
OWNER = ".owner"  # locked for as long as the process that made the folder lives


class Scratch:
    """A temporary folder of this process, with mode 0700, in `where` or the usual place."""

    def __init__(self, where: str | None = None) -> None:
        place = where or tempfile.gettempdir()
        for stale in _stale_folders(Path(place)):
            shutil.rmtree(stale, ignore_errors=True)
        # It removes itself at the end of the interpreter too, where `remove` is never called.
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=place)
        self.path = Path(self._folder.name)
        self._owner = _lock(self.path)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        try:
            self._folder.cleanup()
        finally:
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None


def _lock(folder: Path) -> int | None:
    """The folder's owner file, open and locked; None where locks do not work: it stays."""
    draft = folder / f"{OWNER}.draft"
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a network drive without locks
        os.close(file)
        return None
    # Locked before it has its name: an owner file that is not locked has a dead owner.
    draft.rename(folder / OWNER)
    return file


def _stale_folders(place: Path) -> Iterator[Path]:
    """Folders that a dead process of this user has left in `place`."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # removed meanwhile, or not readable
            found = folder.lstat()  # what another user's link leads to is not ours to remove
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(folder / OWNER, flags)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                owner = os.fstat(file)
                # No link: removed by another process a moment ago.
                if stat.S_ISREG(owner.st_mode) and owner.st_nlink:
                    yield folder
            finally:
                os.close(file)
