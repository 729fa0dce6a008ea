"""A trial folder in the queue: requested resources, its lock, records by other launchers."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.records.files import read_json
from bench.records.record import LOG_NAME, RECORD_NAME, TRIAL_NAME, BadRecord, read_record


@dataclass
class PendingTrial:
    """One folder of the queue, with the state in which the queue found it."""

    folder: Path
    stamp: tuple[int, int] | None = field(init=False)  # of the record that existed then

    def __post_init__(self) -> None:
        self.stamp = self._record_stamp()

    @property
    def name(self) -> str:
        """task/backbone/method/seed-key, for display."""
        return "/".join(self.folder.parts[-4:])

    @property
    def group(self) -> str:
        """The task. Its trials take similar times, which the forecast uses."""
        return self.folder.parts[-4] if len(self.folder.parts) > 4 else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config. Raises OSError, ValueError, KeyError or TypeError without one."""
        # Read when the trial is about to start, so that one bad file fails one trial.
        content = read_json(self.folder / TRIAL_NAME)["config"]
        if not isinstance(content, dict):
            raise TypeError(f"config is {type(content).__name__}: a mapping is needed")
        return content

    @property
    def gpu(self) -> tuple[str, str | None]:
        """`gpu.kind` and `gpu.device`. Raises what `config` does, also for another type."""
        kind, device = self.config["gpu"]["kind"], self.config["gpu"]["device"]
        if kind not in ("cpu", "one", "ddp") or not isinstance(device, str | None):
            raise ValueError(f"gpu.kind={kind!r} with gpu.device={device!r}")
        return kind, device

    @property
    def limit_s(self) -> float:
        """The time limit of the trial in seconds, its imports included."""
        limit_s = self.config["timeout_s"]
        if isinstance(limit_s, bool) or not isinstance(limit_s, int | float):
            raise TypeError(f"timeout_s={limit_s!r} is not a number")
        return float(limit_s)

    def lock(self) -> int | None:
        """Open the log and lock it for this launcher; None while another launcher's trial has it.

        The trial's process inherits the open file, and with it the lock: it owns the folder. Raises
        OSError where the folder is not writable.
        """
        # Not truncated here: the file may be the log of a running trial.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self.folder / LOG_NAME, flags, 0o666)  # less the umask
        try:
            # flock and not lockf: the lock must survive in the child that inherits the file.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            os.close(file)
            raise
        return file

    def new_status(self) -> tuple[str, str | None] | None:
        """Status and reason of a record written since the queue was made; None without one.

        A damaged record counts as failed, with the damage as its reason.
        """
        if self._record_stamp() in (None, self.stamp):
            return None
        try:
            record = read_record(self.folder / RECORD_NAME)
        except BadRecord as error:
            return "failed", str(error)
        return record.status, record.reason

    def drop_new_record(self) -> None:
        """Remove the record in which an interrupted trial reports the interrupt as a failure."""
        if self._record_stamp() not in (None, self.stamp):
            (self.folder / RECORD_NAME).unlink(missing_ok=True)

    def _record_stamp(self) -> tuple[int, int] | None:
        """Identifies one version of the record file; None without one."""
        try:
            found = (self.folder / RECORD_NAME).stat()
        except OSError:
            return None
        # Records are replaced by rename: a new one has another inode, even within a clock tick.
        return found.st_ino, found.st_mtime_ns
