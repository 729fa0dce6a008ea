"""The pipe from a trial's process to its launcher: JSON objects, one per message.

    {"phase": "train", "share": 0.5}      the trial is half-way through its phase `train`
    {"error": "ValueError: ..."}          the exception that ended the trial

JSON rather than pickle: the trial runs foreign code, and the launcher must not execute its data.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from multiprocessing import connection
from typing import Any

PHASE_INTERVAL_S = 2.0  # between two messages of one phase: waking the launcher disturbs timings
MAX_MESSAGE_BYTES = 65_536
MAX_ERROR_CHARACTERS = 2000
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
        self._send({"error": describe_error(error)[:MAX_ERROR_CHARACTERS]})

    def _send(self, message: dict[str, Any]) -> None:
        # The launcher may be gone; this process is then killed within moments (`lifetime`).
        with contextlib.suppress(OSError):
            self._messages.send_bytes(json.dumps(message).encode())


def describe_error(error: BaseException) -> str:
    """One line for a record: the exception, with out-of-memory errors marked as such."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    # CUDA, the CPU allocator and Python each have an exception of their own for it.
    return f"out of memory ({text})" if any(word in text for word in OUT_OF_MEMORY) else text


def parse(message: bytes) -> dict[str, Any]:
    """One message as a dict; anything else that foreign code wrote into the pipe is empty."""
    try:
        parsed = json.loads(message)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
