"""One trial's process as its launcher sees it: started, listened to, ended in time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from bench.launch import child, postmortem
from bench.launch.devices import Claim

GRACE_S = 5.0  # between SIGTERM and SIGKILL
MESSAGE_BYTES = 65_536
MEASURING = frozenset({"memory", "flops", "time", "energy"})  # phases that nothing may disturb
Cause = Literal["limit", "stop"]


@dataclass
class Running:
    """A trial's live process. Times are of time.monotonic()."""

    folder: Path
    device: str
    limit_s: float
    process: BaseProcess
    messages: Connection
    started: float = field(default_factory=time.monotonic)
    phase: str = "start"
    entered: float = field(default_factory=time.monotonic)  # the current phase
    phases_s: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    cause: Cause | None = None  # why the launcher ended it, if it did
    kill_at: float | None = None
    oom_kills: int = field(default_factory=postmortem.oom_kills)

    @property
    def measuring(self) -> bool:
        return self.phase in MEASURING

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def deadline(self) -> float:
        """When the launcher must look again if nothing happens before."""
        return self.started + self.limit_s if self.kill_at is None else self.kill_at

    def read(self) -> Iterator[tuple[str, float]]:
        """What the trial has told since last time: (phase, share of it that is done)."""
        with contextlib.suppress(EOFError, OSError):
            while not self.messages.closed and self.messages.poll():
                message = _parse(self.messages.recv_bytes(MESSAGE_BYTES))
                self.error = message.get("error", self.error)
                if "phase" in message:
                    self._enter(str(message["phase"]))
                    yield self.phase, float(message.get("share", 0.0))
            return
        self.messages.close()

    def _enter(self, phase: str) -> None:
        now = time.monotonic()
        self.phases_s[self.phase] = self.phases_s.get(self.phase, 0.0) + now - self.entered
        self.phase, self.entered = phase, now

    def enforce(self) -> None:
        """End the trial where its time, or its time to end, is over."""
        now = time.monotonic()
        if self.kill_at is not None and now >= self.kill_at:
            self.signal(signal.SIGKILL)
            self.kill_at = now + GRACE_S
        elif self.kill_at is None and now >= self.deadline:
            self.end("limit")

    def end(self, cause: Cause) -> None:
        """Ask the trial to end (SIGTERM to all that it started); SIGKILL follows after a grace.

        At its limit the trial first shows where it is, in its log.
        """
        if self.kill_at is None:
            self.cause = cause
            self.kill_at = time.monotonic() + GRACE_S
            if cause == "limit":
                self.signal(child.SHOW_STACK)
            self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the trial and all that it started."""
        pid = self.process.pid
        assert pid is not None, "started in the factory below"
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # gone, or not yet leader of its group
            if not self.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def bury(self) -> postmortem.Death:
        """Clean up after the process has ended: what it left running, and the pipes."""
        for _ in self.read():
            pass
        phase = self.phase
        self._enter("ended")
        self.signal(signal.SIGKILL)
        self.process.join()
        exit_code = self.process.exitcode
        self.process.close()
        self.messages.close()
        return postmortem.Death(
            exit_code=-signal.SIGKILL if exit_code is None else exit_code,
            phase=phase,
            after_s=time.monotonic() - self.started,
            error=self.error,
            limit_s=self.limit_s if self.cause == "limit" else None,
            oom_kills=postmortem.oom_kills() - self.oom_kills,
        )


def start(
    context: ForkServerContext, entry: str, folder: Path, claim: Claim, log: int, limit_s: float
) -> Running:
    """Start the trial in `folder` in a child of the fork server; it inherits claim and log.

    The caller closes its own copies. Raises OSError or EOFError where no process can be made.
    """
    reader, writer = context.Pipe(duplex=False)
    locks = [child.Sent(file) for file in claim.files]
    with writer, _without_main():
        process = context.Process(
            target=child.main,
            args=(str(folder), entry, claim.variables, child.Sent(log), locks, writer),
        )
        resource_tracker.ensure_running()  # starting it would let the signals through again
        with _signals_held():
            forkserver.ensure_running()
        process.start()
    return Running(folder, claim.name, limit_s, process, reader)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide `__main__`, which multiprocessing would import again in every child.

    A trial must not depend on which program launched it, nor wait for that program's imports.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back, here for a moment and for good in what is started meanwhile.

    A terminal's Ctrl-C reaches the whole process group. The fork server must outlive it: it ends
    with its launcher, which decides what a signal means. A trial lets both through again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, child.ANSWERED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _parse(message: bytes) -> dict[str, Any]:
    """A message of the trial's process, which runs foreign code: anything odd counts as empty."""
    try:
        parsed = json.loads(message)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
