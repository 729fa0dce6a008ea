"""A command of another revision, run to its end: what it prints and how long it takes are bounded.

A planner that prints without end, or waits for ever, ends in one sentence and not in this process's
memory.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

READ_BYTES = 2**16  # what a pipe holds


class Unbounded(Exception):
    """A command that printed too much or took too long; the message names the limit."""


class Limits(NamedTuple):
    """Bytes of stdout at most, of the end of stderr that is kept, and seconds."""

    max_bytes: int
    max_errors: int
    timeout_s: float


class Ended(NamedTuple):
    """How a command ended, what it printed, and the end of its messages."""

    exit_code: int
    output: str
    errors: str


def run_command(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limits: Limits,
) -> Ended:
    """Run `command` in `folder` within `limits`.

    Raises Unbounded beyond them, where it is killed, and OSError where it cannot be started.
    """
    end_s = time.monotonic() + limits.timeout_s
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=dict(environment),
    ) as process:
        try:
            output, errors = _read(process, limits, end_s)
            process.wait(max(0.0, end_s - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise Unbounded(f"did not end within {limits.timeout_s:g} s") from None
        finally:
            process.kill()  # does nothing where it has ended
    return Ended(process.returncode, _text(output), _text(errors).strip())


def _read(
    process: subprocess.Popen[bytes], limits: Limits, end_s: float
) -> tuple[bytearray, bytearray]:
    """All of stdout and the end of stderr. Raises Unbounded and TimeoutError."""
    output, errors = bytearray(), bytearray()
    assert process.stdout is not None
    assert process.stderr is not None
    # Both in one loop: a full pipe that is not read blocks the command.
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ, output)
        waiting.register(process.stderr, selectors.EVENT_READ, errors)
        while waiting.get_map():
            ready = waiting.select(max(0.0, end_s - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, READ_BYTES)
                key.data.extend(chunk)
                if not chunk:
                    waiting.unregister(key.fileobj)
            del errors[: -limits.max_errors]
            if len(output) > limits.max_bytes:
                raise Unbounded(f"printed more than {limits.max_bytes:,} bytes")
    return output, errors


def _text(content: bytearray) -> str:
    return content.decode("utf-8", "replace")
