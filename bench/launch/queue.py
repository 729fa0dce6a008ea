"""The launcher's queue: which trial starts when and where, and what becomes of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from bench.launch import postmortem, running
from bench.launch.devices import Claim, Machine, NoSuchDevice
from bench.launch.pending import Pending
from bench.launch.postmortem import Death
from bench.launch.progress import Display
from bench.launch.running import Running

POLL_S = 1.0  # between two looks at what another launcher holds
BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, NoSuchDevice)  # before a trial runs


@dataclass(frozen=True)
class Outcome:
    """How one trial ended: `ok`, `skipped` or `failed` as its record says, else `interrupted`."""

    folder: Path
    status: str
    reason: str | None = None
    took_s: float = 0.0  # 0 where it ran in another launcher, or not at all
    phases_s: dict[str, float] = field(default_factory=dict)  # seconds in each phase it told


@dataclass
class Summary:
    """What became of the folders, in the order in which they ended."""

    outcomes: list[Outcome] = field(default_factory=list)
    num_left: int = 0  # not run, or ended by an interrupt

    @property
    def interrupted(self) -> bool:
        return self.num_left > 0

    def count(self, status: str) -> int:
        """Number of trials that ended with `status`."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 if every trial ended ok or skipped, else 1."""
        return 1 if self.interrupted or self.count("failed") else 0


@dataclass
class Stop:
    """Whether a signal has asked us to stop, and a file that becomes readable when one does."""

    reader: int
    requested: bool = False


@dataclass
class Queue:
    """Trials that wait, trials that run, and what became of the others."""

    pending: list[Pending]
    machine: Machine
    display: Display
    after_record: Callable[[Path], None]
    start: Callable[[Path, Claim, int, float], Running]
    running: list[tuple[Pending, Running]] = field(default_factory=list)
    unpublished: list[Path] = field(default_factory=list)
    summary: Summary = field(default_factory=Summary)
    blocked: str = ""  # what we wait for that another launcher has

    def run(self, stop: Stop) -> None:
        """Work until nothing is left, or until a signal asks to stop."""
        try:
            while self.running or (self.pending and not stop.requested):
                if stop.requested:
                    for _, live in self.running:
                        live.end("stop")
                else:
                    self._start_what_fits(stop)
                self._sleep(stop)
                self._listen()
                self._publish()
        except KeyboardInterrupt:
            pass  # the second one: what still runs is killed now
        finally:
            self._kill()
            self.summary.num_left = len(self.pending) + self.summary.count("interrupted")
        if self.summary.interrupted:
            done = len(self.summary.outcomes) - self.summary.count("interrupted")
            self.display.say(
                f"interrupted: {done} trials done, {self.summary.num_left} left; "
                "the same command goes on from here"
            )

    def _start_what_fits(self, stop: Stop) -> None:
        """Start, in order, every waiting trial whose device and folder are free."""
        told, self.blocked = self.blocked, ""
        busy: set[tuple[tuple[str, ...], ...]] = set()
        for trial in list(self.pending):
            if stop.requested or len(self.running) >= self.machine.num_slots:
                return
            try:
                gpu = trial.config["gpu"]
                choices = self.machine.choices(gpu["kind"], gpu["device"])
                if choices in busy:
                    continue
                if not self._start_one(trial, choices):
                    busy.add(choices)
            except BROKEN as error:
                if stop.requested:  # it may be the interrupt that broke it: the trial is left
                    return
                self._refuse(trial, error)
        if self.blocked and self.blocked != told and not self.running:
            self.display.say(f"waiting for {self.blocked}")

    def _start_one(self, trial: Pending, choices: tuple[tuple[str, ...], ...]) -> bool:
        """Start `trial` if its folder is free; false if no device in `choices` is."""
        claim = self.machine.claim(choices)
        if claim is None:
            self.blocked = f"a device that is taken by {self.machine.holders(choices)}"
            return False
        try:
            log = trial.lock()
            if log is None:
                self.blocked = f"{trial.name}, which another launcher is running"
                return True
            try:
                by_another = trial.new_status()
                if by_another:
                    self.pending.remove(trial)
                    self._finish(trial, *by_another, took_s=None)
                else:
                    self._launch(trial, claim, log)
            finally:
                os.close(log)
        finally:
            claim.release()
        return True

    def _launch(self, trial: Pending, claim: Claim, log: int) -> None:
        os.ftruncate(log, 0)
        limit_s = trial.limit_s
        self.display.started(trial.name, trial.group, claim.name)
        live = self.start(trial.folder, claim, log, limit_s)
        self.pending.remove(trial)
        self.running.append((trial, live))
        claim.sign(f"process {live.process.pid} ({trial.name})")

    def _sleep(self, stop: Stop) -> None:
        """Wait until a trial tells something or ends, a signal comes, or a time is up."""
        if not self.running and not self.blocked:
            return
        now = time.monotonic()
        times = [POLL_S] if self.blocked else []
        watched: list[Any] = [] if stop.requested else [stop.reader]
        for _, live in self.running:
            watched += [live.process.sentinel, *([] if live.messages.closed else [live.messages])]
            times.append(live.deadline - now)
        wait(watched, max(0.0, min(times)))

    def _listen(self) -> None:
        """Show what the trials tell, hold them to their time, and settle those that ended."""
        for trial, live in list(self.running):
            for phase, share in live.read():
                self.display.phase(trial.name, phase, share)
            live.enforce()
            if live.ended:
                self.running.remove((trial, live))
                self._settle(trial, live)

    def _settle(self, trial: Pending, live: Running) -> None:
        """Find out how a trial ended, and write the record that it did not write itself."""
        death = live.bury()
        found = trial.new_status()
        failed = found is None or found[0] == "failed"
        if live.cause == "stop" and failed:
            trial.drop_new_record()
            status, reason = "interrupted", None
        elif found is None or (live.cause == "limit" and failed):
            status, reason = "failed", _write_failure(trial, death)
        else:
            status, reason = found
        if status != "interrupted":
            self.unpublished.append(trial.folder)
        self._finish(trial, status, reason, death.after_s, live.phases_s)

    def _refuse(self, trial: Pending, error: Exception) -> None:
        """Settle a trial that could not be started."""
        if trial in self.pending:
            self.pending.remove(trial)
        death = Death(None, "start", 0.0, error=f"{type(error).__name__}: {error}")
        reason = _write_failure(trial, death)
        if trial.new_status() is not None:
            self.unpublished.append(trial.folder)
        self._finish(trial, "failed", reason)

    def _finish(
        self,
        trial: Pending,
        status: str,
        reason: str | None,
        took_s: float | None = 0.0,
        phases_s: dict[str, float] | None = None,
    ) -> None:
        outcome = Outcome(trial.folder, status, reason, took_s or 0.0, phases_s or {})
        self.summary.outcomes.append(outcome)
        self.display.finished(trial.name, trial.group, status, reason, took_s)

    def _publish(self) -> None:
        """Hand finished trials on, unless a measurement is under way."""
        if any(live.measuring for _, live in self.running):
            return
        while self.unpublished:
            folder = self.unpublished.pop(0)
            try:
                self.after_record(folder)
            except Exception as error:  # whatever the mirror does, the run goes on
                self.display.say(f"{folder}: not published: {type(error).__name__}: {error}")

    def _kill(self) -> None:
        """Leave nothing running: after an error of our own, or a second Ctrl-C."""
        for trial, live in self.running:
            live.signal(signal.SIGKILL)
            live.process.join(running.GRACE_S)
            self._finish(trial, "interrupted", None)
        self.running.clear()


def _write_failure(trial: Pending, death: Death) -> str:
    """Write the `failed` record of a trial; the reason, also where no record could be written."""
    try:
        return str(postmortem.write_failure(trial.folder, death).reason)
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"{death.reason()}; no record could be written: {type(error).__name__}: {error}"
        return postmortem.redact(told)
