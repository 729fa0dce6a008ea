"""The launcher's queue: which trial starts when and on which device, and how it ended.

One thread, one loop: start what can start, wait for an event, handle it. Nothing polls while a
trial measures, except once a second for a device that another launcher holds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from bench.launch import failures, process
from bench.launch.devices import Claim, Machine, NoSuchDevice, Wait
from bench.launch.failures import ProcessExit
from bench.launch.outcome import Outcome, Summary
from bench.launch.pending import PendingTrial
from bench.launch.process import TrialProcess
from bench.launch.progress import Display
from bench.launch.turns import Choices, Turn, take_turn
from bench.records.redaction import redact

MAX_WAIT_S = 3600.0
POLL_S = 1.0  # between two attempts to get a lock that another launcher holds
# What an unreadable trial.json, a missing device or an exhausted machine raises.
START_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, NoSuchDevice)


@dataclass
class Stop:
    """Whether a signal has requested a stop, and a file that becomes readable when it does."""

    reader: int
    requested: bool = False


@dataclass
class Queue:
    """Waiting trials, running trials, and the outcomes of the others."""

    pending: list[PendingTrial]
    machine: Machine
    display: Display
    after_record: Callable[[Path], None]
    start_process: Callable[[Path, Claim, int, float], TrialProcess]
    running: list[tuple[PendingTrial, TrialProcess]] = field(default_factory=list)
    unpublished: list[Path] = field(default_factory=list)  # `after_record` is still to be called
    summary: Summary = field(default_factory=Summary)
    turn: Turn = field(init=False)  # this run's place among the runs of this machine
    blocked: Wait | None = None  # the device or folder held by another launcher, for display

    def run(self, stop: Stop) -> None:
        """Run all trials, or until a signal requests a stop."""
        with take_turn(self.machine.locks) as self.turn:
            self._run(stop)

    def _run(self, stop: Stop) -> None:
        try:
            while self.running or (self.pending and not stop.requested):
                self.turn.wait_for(self._next_choices())
                if stop.requested:
                    for _, live in self.running:
                        live.terminate("stop")
                else:
                    self._start_ready(stop)
                self._wait(stop)
                self._handle_events()
                self._publish()
        except KeyboardInterrupt:
            pass  # the second signal: running trials are killed without a grace period
        finally:
            self._kill_running()
            self.summary.num_left = len(self.pending) + self.summary.count("interrupted")
        if self.summary.interrupted:
            done = len(self.summary.outcomes) - self.summary.count("interrupted")
            left = self.summary.num_left
            self.display.message(f"interrupted: {done} trials done, {left} left; rerun to resume")

    def _start_ready(self, stop: Stop) -> None:
        """Start, in order, every waiting trial whose device and folder are free."""
        displayed, self.blocked = self.blocked, None
        # Device choices without a free device: one attempt per round is enough.
        busy: set[tuple[tuple[str, ...], ...]] = set()
        for trial in list(self.pending):
            if stop.requested or len(self.running) >= self.machine.num_slots:
                return
            try:
                choices = self.machine.choices(*trial.gpu)
                if choices in busy:
                    continue
                if not self._try_start(trial, choices):
                    busy.add(choices)
            except START_ERRORS as error:
                if stop.requested:  # the interrupt may be the cause: a rerun resumes the trial
                    return
                self._fail_start(trial, error)
        # Once per reason; while own trials run, the wait for them is displayed already.
        if self.blocked and self.blocked != displayed and not self.running:
            self.display.message(f"waiting for {self.blocked}")

    def _next_choices(self) -> Choices:
        """What the first waiting trial may run on; nothing where its folder is not readable."""
        for trial in self.pending[:1]:
            with suppress(*START_ERRORS):
                return self.machine.choices(*trial.gpu)
        return ()

    def _try_start(self, trial: PendingTrial, choices: tuple[tuple[str, ...], ...]) -> bool:
        """Start `trial` if its folder is free; false if no device in `choices` is."""
        claim = self.machine.claim(choices, self.turn)
        if claim is None:
            self.blocked = self.machine.wait(choices, self.turn)
            return False
        try:
            log = trial.lock()
            if log is None:
                self.blocked = Wait(f"{trial.name}, which another launcher is running")
                return True
            try:
                # Only under the lock: another launcher may have finished it a moment ago.
                by_another = trial.new_status()
                if by_another:
                    self.pending.remove(trial)
                    self._add_outcome(trial, *by_another, took_s=None)
                else:
                    self._launch(trial, claim, log)
            finally:
                os.close(log)
        finally:
            # The trial's process holds copies of these files, and with them the locks.
            claim.release()
        return True

    def _launch(self, trial: PendingTrial, claim: Claim, log: int) -> None:
        os.ftruncate(log, 0)  # the log of an earlier run
        limit_s = trial.limit_s
        self.display.started(trial.name, trial.group, claim.name)
        live = self.start_process(trial.folder, claim, log, limit_s)
        self.pending.remove(trial)
        self.running.append((trial, live))
        claim.sign(f"process {live.process.pid} ({trial.name})")

    def _wait(self, stop: Stop) -> None:
        """Wait for a message or exit of a trial, a signal, or the next deadline."""
        if not self.running and not self.blocked:
            return  # a trial failed to start: no event will come
        now = time.monotonic()
        times = [POLL_S] if self.blocked else []
        # After a stop its pipe stays readable and would end every wait at once.
        watched: list[Any] = [] if stop.requested else [stop.reader]
        for _, live in self.running:
            watched += [live.process.sentinel, *([] if live.messages.closed else [live.messages])]
            times.append(live.deadline_s - now)
        # Bounded: a time limit of 10^300 s is one too, but no system call takes it.
        wait(watched, min(max(0.0, min(times)), MAX_WAIT_S))

    def _handle_events(self) -> None:
        """Display reported phases, enforce time limits, and settle trials that ended."""
        for trial, live in list(self.running):
            for phase, share in live.read_messages():
                self.display.phase(trial.name, phase, share)
            live.enforce_limit()
            if live.ended:
                self.running.remove((trial, live))
                self._settle(trial, live)

    def _settle(self, trial: PendingTrial, live: TrialProcess) -> None:
        """Determine how a trial ended, and write the record that it did not write itself."""
        end = live.clean_up()
        found = trial.new_status()
        failed = found is None or found[0] == "failed"
        if live.cause == "stop" and failed:
            # A framework may turn SIGTERM into an exception, and the trial into a failed record.
            trial.drop_new_record()
            status, reason = "interrupted", None
        elif found is None or (live.cause == "limit" and failed):
            status, reason = "failed", _write_failure(trial, end)
        else:
            # A valid record counts even if the process was killed after it was written.
            status, reason = found
        if status != "interrupted":
            self.unpublished.append(trial.folder)
        self._add_outcome(trial, status, reason, end.after_s, live.phases_s)

    def _fail_start(self, trial: PendingTrial, error: Exception) -> None:
        """Settle a trial that could not be started."""
        if trial in self.pending:
            self.pending.remove(trial)
        end = ProcessExit(None, "start", 0.0, error=f"{type(error).__name__}: {error}")
        reason = _write_failure(trial, end)
        if trial.new_status() is not None:  # the folder may not be writable
            self.unpublished.append(trial.folder)
        self._add_outcome(trial, "failed", reason)

    def _add_outcome(
        self,
        trial: PendingTrial,
        status: str,
        reason: str | None,
        took_s: float | None = 0.0,
        phases_s: dict[str, float] | None = None,
    ) -> None:
        outcome = Outcome(trial.folder, status, reason, took_s or 0.0, phases_s or {})
        self.summary.outcomes.append(outcome)
        self.display.finished(trial.name, trial.group, status, reason, took_s)

    def _publish(self) -> None:
        """Pass finished trials to `after_record`, unless a measurement is under way."""
        if any(live.measuring for _, live in self.running):
            return
        while self.unpublished:
            folder = self.unpublished.pop(0)
            try:
                self.after_record(folder)
            except Exception as error:  # a mirror that is down must not stop the run
                self.display.message(f"{folder}: not published: {type(error).__name__}: {error}")

    def _kill_running(self) -> None:
        """Kill what still runs after a second Ctrl-C or an error in the queue itself."""
        for trial, live in self.running:
            live.send_signal(signal.SIGKILL)
            live.process.join(process.GRACE_S)
            live.end_strays()
            live.log.close()
            self._add_outcome(trial, "interrupted", None)
        self.running.clear()


def _write_failure(trial: PendingTrial, end: ProcessExit) -> str:
    """Write the `failed` record of a trial; returns its reason, also if no record was written."""
    try:
        return str(failures.write_failure(trial.folder, end).reason)
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        return redact(f"{end.reason()}; no record could be written: {cause}")
