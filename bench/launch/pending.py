"""A trial folder that waits for its turn: what it asks for, and whether someone else has run it."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.records.record import LOG_NAME, RECORD_NAME, TRIAL_NAME, BadRecord, read_record


@dataclass
class Pending:
    """One folder of the queue, as it was when the queue was made."""

    folder: Path
    stamp: tuple[int, int] | None = field(init=False)  # of the record that is there already

    def __post_init__(self) -> None:
        self.stamp = self._record_stamp()

    @property
    def name(self) -> str:
        """task/backbone/method/seed-key, by which a person knows the trial."""
        return "/".join(self.folder.parts[-4:])

    @property
    def group(self) -> str:
        """The task: its trials take like time."""
        return self.folder.parts[-4] if len(self.folder.parts) > 4 else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config. Raises OSError, ValueError, KeyError or TypeError without one."""
        return dict(json.loads((self.folder / TRIAL_NAME).read_text(encoding="utf-8"))["config"])

    @property
    def limit_s(self) -> float:
        return float(self.config["timeout_s"])

    def lock(self) -> int | None:
        """Open and lock the log for this launcher; None while another launcher's trial has it.

        The trial's process inherits the open file as its output, and with it the lock: whoever
        writes the log has the folder. Raises OSError where the folder is not writable.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self.folder / LOG_NAME, flags, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            os.close(file)
            raise
        return file

    def new_status(self) -> tuple[str, str | None] | None:
        """Status and reason of a record that has come since the queue was made; None without one.

        A damaged one counts as failed and says so.
        """
        if self._record_stamp() in (None, self.stamp):
            return None
        try:
            record = read_record(self.folder / RECORD_NAME)
        except BadRecord as error:
            return "failed", str(error)
        return record.status, record.reason

    def drop_new_record(self) -> None:
        """Remove a record that an interrupted trial wrote about its interruption."""
        if self._record_stamp() not in (None, self.stamp):
            (self.folder / RECORD_NAME).unlink(missing_ok=True)

    def _record_stamp(self) -> tuple[int, int] | None:
        """Tells one record file from another; None without one."""
        try:
            found = (self.folder / RECORD_NAME).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
