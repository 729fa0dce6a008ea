"""A process of its own that mirrors records to W&B while the launcher goes on.

    launcher --folder path--> python -m bench.publish --wandb--> offline files or the server
             <--one JSON line--

Its own process, because importing and starting wandb costs a second once and a tenth per run, and
because what hangs can be ended. W&B only shows what the records hold: when it fails, by an import
error, a crash, a hang or a dead network, the mirror warns once and is off from then on. Nothing is
lost, since `condbench publish` can send the same folders later, and nothing stops.
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

MODES = ("offline", "online", "disabled")
SEND_TIMEOUT_S = 30.0
GRACE_S = 5.0  # to end by itself


class PublishWarning(UserWarning):
    """W&B did not take a record; the record itself is safe."""


class Mirror:
    """A process of its own that publishes the folders it is sent, one after the other.

    `problems` says what was not taken and why. With mode disabled no process is started. Raises
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
                    stderr=subprocess.DEVNULL,
                    text=True,
                    bufsize=1,
                    start_new_session=True,  # Ctrl-C is the launcher's; ended below as a group
                )
            except OSError as error:
                self._turn_off(f"no process for it ({error})")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._close(GRACE_S)

    def send(self, folder: Path) -> bool:
        """Publish one trial folder; returns whether it was taken, within `timeout_s`.

        Never raises: the first failure warns and turns the mirror off.
        """
        if self._process is None:
            return False
        answer = self._ask(self._process, folder)
        if answer.get("record"):  # the record's own fault, not W&B's
            self._warn(f"not mirrored: {answer['error']}")
        elif not answer.get("ok"):
            self._turn_off(str(answer.get("error")))
        return bool(answer.get("ok"))

    def _ask(self, process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(str(folder.resolve())) + "\n")
            ready, _, _ = select.select([process.stdout], [], [], self.timeout_s)
            if not ready:
                return {"error": f"no answer within {self.timeout_s:g} s"}
            line = process.stdout.readline()
            return (
                json.loads(line) if line else {"error": f"it died (exit {process.wait(GRACE_S)})"}
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _turn_off(self, why: str) -> None:
        later = "the records are safe and `condbench publish` sends them later"
        self._close(grace_s=0.0)
        self._warn(f"the W&B mirror is off: {why}; {later}")

    def _warn(self, problem: str) -> None:
        self.problems.append(problem)
        warnings.warn(problem, PublishWarning, stacklevel=4)

    def _close(self, grace_s: float) -> None:
        """End the process, kindly within `grace_s`, else with all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # the other end may be gone
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(grace_s) == 0:
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
