"""What a process has from its own start, carried to a replica that was forked from elsewhere."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Surroundings:
    """Where code is found, which devices are visible, and where output goes."""

    path: list[str]
    environment: dict[str, str]
    folder: str
    log: str | None  # a file or pipe of a trial; None where output goes to a terminal

    def adopt(self) -> None:
        """Make this process's surroundings these. Before CUDA is initialised, which reads them.

        Servers are older than the trial that they work for: without its environment a model on
        the trial's only GPU would be timed on the first GPU of the machine.
        """
        os.chdir(self.folder)  # sys.path may hold relative folders
        sys.path[:] = self.path
        os.environ.clear()
        os.environ.update(self.environment)
        with suppress(OSError):  # deleted meanwhile: output stays where the server's goes
            if self.log is not None:
                # Opened anew: the descriptor itself would share the trial's lock on its log.
                log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.close(log)


def surroundings() -> Surroundings:
    """Those of this process."""
    return Surroundings(list(sys.path), dict(os.environ), str(Path.cwd()), _log())


def _log() -> str | None:
    """The file that standard error is appended to, or the pipe that it goes into."""
    with suppress(OSError):  # closed, or a system without /proc
        if stat.S_ISFIFO(os.fstat(2).st_mode):
            return f"/proc/{os.getpid()}/fd/2"
        # Where writing is not appending, two open files would overwrite each other's lines.
        if fcntl.fcntl(2, fcntl.F_GETFL) & os.O_APPEND:
            place = Path("/proc/self/fd/2").readlink()
            return str(place) if place.is_file() else None
    return None
