"""A trial's output on its way to trial.log: without secrets, and bounded.

The trial writes into a pipe, whatever prints in it: Python, a C library, a crash. A thread of the
launcher reads the pipe. It is the launcher that has the variables with keys, not the trial, and a
trial that is killed loses nothing that it had written.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque

from bench.records.redaction import redact

MAX_HEAD_BYTES = 8 * 2**20  # of the log, written as they come
MAX_TAIL_BYTES = 2**20  # the end of a longer log, written when the trial has ended
MAX_LINE_BYTES = 2**16  # a longer line is written in pieces
READ_BYTES = 2**16  # what a pipe holds


class TrialLog:
    """The pipe of one trial, from `output`, which the trial inherits, into the file `log`."""

    def __init__(self, log: int) -> None:
        self._log = os.dup(log)  # the caller closes its own
        self._reader, self.output = os.pipe()
        self._ended, self._end = os.pipe()
        self._head_left = MAX_HEAD_BYTES
        self._unfinished = b""  # of a line
        self._tail: deque[bytes] = deque()
        self._num_tail = self._num_cut = 0
        os.set_blocking(self._reader, False)
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def close_output(self) -> None:
        """Close this process's end for writing, once the trial has inherited it."""
        if self.output >= 0:
            os.close(self.output)
            self.output = -1

    def close(self) -> None:
        """Write what is left in the pipe, and the end of a log that was too long."""
        # Not until the end of the pipe: a process that escaped from the trial may keep it open.
        os.close(self._end)
        self._thread.join()
        self.close_output()
        for file in (self._reader, self._ended, self._log):
            os.close(file)

    def _copy(self) -> None:
        while self._reader in select.select([self._reader, self._ended], [], [])[0]:
            if not (chunk := self._read()):
                break
            self._take(chunk)
        while chunk := self._read():
            self._take(chunk)
        self._take(b"\n" if self._unfinished else b"")
        self._write_tail()

    def _read(self) -> bytes:
        """What is in the pipe; nothing at its end, and where it is empty."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._reader, READ_BYTES)
        return b""

    def _take(self, chunk: bytes) -> None:
        """Pass on the whole lines: a secret may come in two pieces."""
        whole, newline, rest = (self._unfinished + chunk).rpartition(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            whole, newline, rest = whole + newline + rest, b"", b""
        self._unfinished = rest
        if not whole + newline:
            return
        if self._head_left > 0:
            self._write(whole + newline)
            self._head_left -= len(whole + newline)
            if self._head_left <= 0:
                self._write(b"[the log is full; the last lines follow when the trial has ended]\n")
            return
        self._tail.append(whole + newline)
        self._num_tail += len(whole + newline)
        while self._num_tail > MAX_TAIL_BYTES and len(self._tail) > 1:
            oldest = len(self._tail.popleft())
            self._num_tail -= oldest
            self._num_cut += oldest

    def _write_tail(self) -> None:
        if self._num_cut:
            self._write(f"[{self._num_cut:,} bytes cut]\n".encode())
        for lines in self._tail:
            self._write(lines)

    def _write(self, lines: bytes) -> None:
        # Programs print any bytes: those that are no UTF-8 are escaped.
        text = redact(lines.decode("utf-8", "surrogateescape"))
        left = text.encode()
        with contextlib.suppress(OSError):  # a full disk costs the log, not the trial
            while left:
                left = left[os.write(self._log, left) :]
