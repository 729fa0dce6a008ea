"""The pipe from a trial's process to its launcher: JSON objects, one per line.

    {"phase": "train", "share": 0.5}      the trial is half-way through its phase `train`
    {"error": "ValueError: ..."}          the exception that ended the trial

JSON rather than pickle: the trial runs foreign code, and the launcher must not execute its data.
Nor does it wait for the rest of a message, or take a value of another type.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import traceback
from multiprocessing import connection
from typing import Any

from bench.records.files import parse_json
from bench.records.redaction import bounded, printable

PHASE_INTERVAL_S = 2.0  # between two messages of one phase: waking the launcher disturbs timings
MAX_MESSAGE_BYTES = 65_536
MAX_ERROR_CHARACTERS = 2000
MAX_PHASE_CHARACTERS = 40
OUT_OF_MEMORY = ("MemoryError", "OutOfMemory", "out of memory", "can't allocate memory")


class Reporter:
    """The trial's end of the pipe."""

    def __init__(self, messages: connection.Connection) -> None:
        self._messages = messages
        self._phase = ""
        self._sent_s = 0.0  # time.monotonic() of the last phase message

    def report_phase(self, name: str, share: float) -> None:
        """Report that the trial is in phase `name`, of which `share` (0..1) is done."""
        now = time.monotonic()
        if name != self._phase or now - self._sent_s >= PHASE_INTERVAL_S:
            self._phase, self._sent_s = name, now
            self._send({"phase": name, "share": float(share)})

    def report_error(self, error: BaseException) -> None:
        """Report the exception that ended the trial."""
        self._send({"error": bounded(describe_error(error), MAX_ERROR_CHARACTERS)})

    def _send(self, message: dict[str, Any]) -> None:
        # The launcher may be gone; this process is then killed within moments (`lifetime`).
        with contextlib.suppress(OSError):
            left = json.dumps(message).encode() + b"\n"
            while left:
                left = left[os.write(self._messages.fileno(), left) :]


def describe_error(error: BaseException) -> str:
    """One line for a record: the exception, with out-of-memory errors marked as such."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    # CUDA, the CPU allocator and Python each have an exception of their own for it.
    return f"out of memory ({text})" if any(word in text for word in OUT_OF_MEMORY) else text


class Receiver:
    """The launcher's end of the pipe."""

    def __init__(self, messages: connection.Connection) -> None:
        self._messages = messages
        self._unfinished = b""
        os.set_blocking(messages.fileno(), False)  # of this end only

    def read(self) -> list[dict[str, Any]]:
        """The messages that have come since the last call.

        Closes the pipe at its end and after an endless line: a wait on it would spin.
        """
        found: list[dict[str, Any]] = []
        while not self._messages.closed:
            try:
                chunk = os.read(self._messages.fileno(), MAX_MESSAGE_BYTES)
            except BlockingIOError:
                break
            *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
            found += map(parse, lines)
            if not chunk or len(self._unfinished) > MAX_MESSAGE_BYTES:
                self._messages.close()
        return found


def parse(message: bytes) -> dict[str, Any]:
    """One message, with the fields that have their type; junk of foreign code is empty."""
    try:
        content = parse_json(message.decode())
    except ValueError:
        return {}
    found = content if isinstance(content, dict) else {}
    share, phase, error = (found.get(name) for name in ("share", "phase", "error"))
    taken: dict[str, Any] = {}
    if isinstance(phase, str):
        is_share = isinstance(share, int | float) and math.isfinite(share)
        taken["phase"] = printable(phase[:MAX_PHASE_CHARACTERS])
        taken["share"] = min(max(float(share or 0.0), 0.0), 1.0) if is_share else 0.0
    if isinstance(error, str):
        taken["error"] = bounded(error, MAX_ERROR_CHARACTERS)
    return taken
