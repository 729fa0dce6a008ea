"""A trial's process from its launcher's side: start, messages, time limit, exit."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
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
from typing import Literal

from bench.launch import child, failures, fork_server, lifetime
from bench.launch.devices import Claim
from bench.launch.log import TrialLog
from bench.launch.messages import Receiver
from bench.meters.time import replicas
from bench.records.redaction import is_secret

GRACE_S = 5.0  # between SIGTERM and SIGKILL
MEASURING = frozenset({"memory", "flops", "time", "energy"})  # phases that must not be disturbed
Cause = Literal["limit", "stop"]
# Trials of this process that run, of whichever launcher: they share one fork server.
_live: set[int] = set()
_starting = threading.Lock()  # between the start of a trial and its entry above


@dataclass
class TrialProcess:
    """A live process that runs one trial. Points in time are of time.monotonic(), in seconds."""

    folder: Path
    device: str
    limit_s: float
    process: BaseProcess
    messages: Connection
    log: TrialLog
    receiver: Receiver
    started_s: float = field(default_factory=time.monotonic)
    phase: str = "start"
    phase_started_s: float = field(default_factory=time.monotonic)
    phases_s: dict[str, float] = field(default_factory=dict)  # duration of each phase so far
    error: str | None = None
    cause: Cause | None = None  # why the launcher ended it, if it did
    kill_at_s: float | None = None  # set by SIGTERM
    strays: set[lifetime.Process] = field(default_factory=set)  # seen before a signal: to be killed
    # A counter of the whole machine: only its increase during the trial is evidence.
    oom_kills: int = field(default_factory=failures.count_oom_kills)

    @property
    def measuring(self) -> bool:
        """Whether it is in a phase in which the machine must stay quiet."""
        return self.phase in MEASURING

    @property
    def ended(self) -> bool:
        """Whether the process has exited."""
        return self.process.exitcode is not None

    @property
    def deadline_s(self) -> float:
        """When the launcher must look again if no event comes before."""
        return self.started_s + self.limit_s if self.kill_at_s is None else self.kill_at_s

    def read_messages(self) -> Iterator[tuple[str, float]]:
        """The phases reported since the last call, as (phase, share of it that is done)."""
        for message in self.receiver.read():
            self.error = message.get("error", self.error)
            if "phase" in message:
                self._enter_phase(message["phase"])
                yield self.phase, message["share"]

    def _enter_phase(self, phase: str) -> None:
        now = time.monotonic()
        # Added up: a phase such as `evaluate` may come back.
        spent_s = now - self.phase_started_s
        self.phases_s[self.phase] = self.phases_s.get(self.phase, 0.0) + spent_s
        self.phase, self.phase_started_s = phase, now

    def enforce_limit(self) -> None:
        """Terminate the trial at its time limit, and kill it after the grace period."""
        now = time.monotonic()
        if self.kill_at_s is not None and now >= self.kill_at_s:
            self.send_signal(signal.SIGKILL)
            self.kill_at_s = now + GRACE_S  # tried again: a process in the kernel may take long
        elif self.kill_at_s is None and now >= self.deadline_s:
            self.terminate("limit")

    def terminate(self, cause: Cause) -> None:
        """Send SIGTERM to the trial's process group; SIGKILL follows after a grace period.

        At the time limit the trial first writes its stack to the log.
        """
        if self.kill_at_s is None:
            self.cause = cause
            self.kill_at_s = time.monotonic() + GRACE_S
            if cause == "limit":
                self.send_signal(child.SHOW_STACK)
            self.send_signal(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the trial and the processes of its group; note all that it started."""
        pid = self.process.pid
        assert pid is not None, "started in the factory below"
        # Now: what has left the group can be listed only while the trial, its parent, runs.
        self.strays |= set(lifetime.descendants(pid))
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            # The group is gone, or the child has not called setsid() yet.
            if not self.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def end_strays(self) -> None:
        """Kill what the trial, which has ended, left running in sessions of its own."""
        lifetime.kill(self.strays)
        # Those of a crash were never seen; the fork server is their parent now.
        with _starting:
            _live.discard(self.process.pid or 0)
            server = lifetime.child_with(fork_server.SERVER)
            if server is not None:
                lifetime.kill_orphans(server, _live)

    def clean_up(self) -> failures.ProcessExit:
        """Read the last messages, kill leftover child processes, close the pipes.

        Returns how the process ended.
        """
        for _ in self.read_messages():
            pass
        phase = self.phase
        self._enter_phase("ended")  # closes the last phase's duration
        self.send_signal(signal.SIGKILL)
        self.process.join()
        self.end_strays()
        exit_code = self.process.exitcode
        self.process.close()
        self.messages.close()
        self.log.close()
        return failures.ProcessExit(
            # Never None after join(); the type is for processes that still run.
            exit_code=-signal.SIGKILL if exit_code is None else exit_code,
            phase=phase,
            after_s=time.monotonic() - self.started_s,
            error=self.error,
            limit_s=self.limit_s if self.cause == "limit" else None,
            oom_kills=failures.count_oom_kills() - self.oom_kills,
        )


def start(
    context: ForkServerContext, entry: str, folder: Path, claim: Claim, log: int, limit_s: float
) -> TrialProcess:
    """Start the trial in `folder` in a child of the fork server; it inherits claim and log.

    The caller closes its own copies. Raises OSError or EOFError where no process can be made.
    """
    reader, writer = context.Pipe(duplex=False)
    # The log's file too: who holds it owns the folder.
    locks = [child.InheritedFile(file) for file in (*claim.files, log)]
    output = TrialLog(log)
    # Set per trial: the fork server's own environment may be that of an earlier run.
    shared = {name: os.environ[name] for name in (replicas.VARIABLE,) if name in os.environ}
    try:
        with writer, _without_main():
            process = context.Process(
                target=child.main,
                args=(
                    str(folder),
                    entry,
                    claim.variables | shared,
                    child.InheritedFile(output.output),
                    locks,
                    writer,
                ),
            )
            _start_servers()
            with _starting:
                process.start()
                _live.add(process.pid or 0)
    except BaseException:
        reader.close()
        output.close()
        raise
    output.close_output()
    return TrialProcess(folder, claim.name, limit_s, process, reader, output, Receiver(reader))


def _start_servers() -> None:
    """Start the fork server and the resource tracker, where they do not run yet."""
    with _secrets_hidden():
        # Before the block below: starting the tracker would unblock the signals again.
        resource_tracker.ensure_running()
        with _signals_blocked():
            forkserver.ensure_running()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide `__main__`, which multiprocessing would import again in every child.

    A trial must not depend on the program that launched it, nor wait for that program's imports.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _secrets_hidden() -> Iterator[None]:
    """Take the variables that hold keys out of the environment, for what is started meanwhile.

    Removing them in the trial would be too late: /proc/self/environ shows what a process, and here
    that is the fork server, was started with.
    """
    hidden = {name: value for name, value in os.environ.items() if is_secret(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM here for a moment, and for good in what is started meanwhile.

    A terminal's Ctrl-C reaches the whole process group. The fork server must outlive it: it ends
    with its launcher, which decides what a signal means. A trial unblocks both.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, child.HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
