"""A process of its own that mirrors records to W&B while the launcher continues.

    launcher --folder path--> python -m bench.publish --wandb--> offline files or the server
             <--one JSON line--

It is a process because importing and starting wandb costs a second once and a tenth per run, and
because a process that hangs can be ended. W&B is a mirror of the records: after an import error, a
crash, a hang or a network failure the mirror warns once and is off from then on. Nothing is lost,
as `condbench publish` sends the same folders later, and no trial stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.records.files import parse_json

MODES = ("offline", "online", "disabled")
SEND_TIMEOUT_S = 30.0  # for one record: an upload takes seconds
GRACE_S = 5.0  # for the process to end by itself


class PublishWarning(UserWarning):
    """A record was not sent to W&B; the record itself is unaffected."""


class Mirror:
    """A context manager around a process that publishes folders, one after the other.

    `problems` lists what was not sent and why. With mode disabled no process is started. Raises
    ValueError for an unknown mode.
    """

    def __init__(self, mode: str, project: str, timeout_s: float = SEND_TIMEOUT_S) -> None:
        if mode not in MODES:
            raise ValueError(f"wandb.mode is one of {', '.join(MODES)}, not {mode!r}")
        self.mode = mode
        self.project = project
        self.timeout_s = timeout_s
        self.problems: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the process; it imports wandb while the first trial runs."""
        if self.mode != "disabled":
            command = [sys.executable, "-m", "bench.publish", self.mode, self.project]
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # wandb's log would mix with the progress lines
                    encoding="utf-8",
                    errors="replace",
                    bufsize=1,  # by line: a folder must not wait in a buffer
                    start_new_session=True,  # Ctrl-C is the launcher's; ended below as a group
                )
            except OSError as error:
                self._turn_off(f"its process did not start ({error})")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._close(GRACE_S)

    def send(self, folder: Path) -> bool:
        """Publish one trial folder; returns whether it was sent within `timeout_s`.

        Never raises: the first failure warns and turns the mirror off.
        """
        if self._process is None:
            return False
        reply = self._request(self._process, folder)
        if reply.get("record"):  # a damaged record, not a failure of W&B: the next one may pass
            self._warn(f"not mirrored: {reply['error']}")
        elif not reply.get("ok"):
            self._turn_off(str(reply.get("error")))
        return bool(reply.get("ok"))

    def _request(self, process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
        """The reply to one folder: {"ok": True}, or {"error": why}."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(str(folder.resolve())) + "\n")
            # select, because readline() has no timeout.
            ready, _, _ = select.select([process.stdout], [], [], self.timeout_s)
            if not ready:
                return {"error": f"no reply within {self.timeout_s:g} s"}
            line = process.stdout.readline()
            if not line:  # end of file: the process has died
                return {"error": f"its process ended (exit {process.wait(GRACE_S)})"}
            reply = parse_json(line)
            return reply if isinstance(reply, dict) else {"error": f"invalid reply {line[:80]!r}"}
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _turn_off(self, why: str) -> None:
        later = "the records are complete, and `condbench publish` sends them later"
        self._close(grace_s=0.0)
        self._warn(f"the W&B mirror is off: {why}; {later}")

    def _warn(self, problem: str) -> None:
        self.problems.append(problem)
        warnings.warn(problem, PublishWarning, stacklevel=4)  # at the caller of send()

    def _close(self, grace_s: float) -> None:
        """End the process: by itself within `grace_s`, else killed with all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # the other end may be closed
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(grace_s) == 0:
                return
        # The group: wandb starts processes of its own, which would outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
