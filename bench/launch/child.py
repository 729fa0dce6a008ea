"""Inside a trial's process: bound to its launcher, alone in its process group, talking JSON.

The launcher starts `main` in a child of the fork server. The child

- leads a session of its own, so that one signal reaches it and everything that it started;
- ends when the launcher ends, also by `kill -9`: a thread waits on the launcher's end of a pipe,
  and the kernel kills the child when the fork server goes;
- holds its device's lock and its folder's (the log file) by open files;
- writes its output into the log by file descriptor, so that C libraries and crashes land there too;
- tells its phase, and why it failed, as JSON through a pipe.

`python -m bench.launch.child FOLDER ENTRY` is what torchrun starts once per device.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, reduction
from pathlib import Path
from types import FrameType
from typing import Any

PHASE_INTERVAL_S = 2.0  # between two messages of one phase: the launcher stays asleep meanwhile
ERROR_CHARACTERS = 2000
OUT_OF_MEMORY = ("MemoryError", "OutOfMemory", "out of memory", "can't allocate memory")
SHOW_STACK = signal.SIGUSR1
ANSWERED = (signal.SIGINT, signal.SIGTERM)  # the fork server holds them back, a trial does not
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Publishing is the mirror's work, in a process of its own: trials and their logs never see the key.
NOT_FOR_TRIALS = ("WANDB_API_KEY",)


def main(
    folder: str,
    entry: str,
    variables: dict[str, str],
    log: Sent,
    locks: list[Sent],
    messages: connection.Connection,
) -> None:
    """Run one trial in this fresh process.

    `entry` is "module:function", called as `function(folder, on_phase=...)`; `variables` go into
    the environment first. The files of `locks` are never closed: the locks live as long as we do.
    """
    os.setsid()
    end_with_launcher()
    _write_into(log.file)
    _answer_signals()
    for name in NOT_FOR_TRIALS:
        os.environ.pop(name, None)
    os.environ.update(variables)
    teller = Teller(messages)
    num_gpus = len([gpu for gpu in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu])
    try:
        if num_gpus > 1:
            run_distributed(folder, entry, num_gpus)
        else:
            load(entry)(Path(folder), on_phase=teller.phase)
    except BaseException as error:
        teller.error(error)
        raise


@dataclass
class Sent:
    """An open file that goes along to a child process, where its number is another."""

    file: int

    def __reduce__(self) -> tuple[Callable[..., Sent], tuple[Any]]:
        return _received, (reduction.DupFd(self.file),)


def _received(wrapped: Any) -> Sent:
    return Sent(wrapped.detach())


def load(entry: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def run_distributed(folder: str, entry: str, num_processes: int) -> None:
    """Run one trial in `num_processes` ranks under torchrun, with this process as their agent.

    Raises RankFailed when a rank fails, with the word of the one that failed first.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # ranks find what this process finds
    ranks = f"--nproc-per-node={num_processes}"
    try:
        torchrun(["--standalone", ranks, "--module", "bench.launch.child", folder, entry])
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        raise RankFailed(f"rank {number}: {_last_words(failure)}") from error


class RankFailed(Exception):
    """A rank of a distributed trial failed; the message says which and why."""


def _last_words(failure: Any) -> str:
    """What ended a rank: the exception that it left word of, a signal, or its exit code."""
    if isinstance(failure.message, dict):
        return str(failure.message["message"])
    return failure.message if failure.exitcode < 0 else f"exit code {failure.exitcode}"


def rank(folder: str, entry: str) -> None:
    """One rank of a distributed trial. torchrun gives it a session of its own: bind it again."""
    from torch.distributed.elastic.multiprocessing.errors import record

    die_with_parent()
    record(load(entry))(Path(folder))  # an exception is left where its agent finds it


def end_with_launcher() -> None:
    """Kill this process group as soon as the launcher is gone."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "not started by multiprocessing"

    def watch() -> None:
        # Signals are for the main thread, which they wake from whatever it waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        connection.wait([launcher.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-launcher", daemon=True).start()
    die_with_parent()


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent process ends (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _write_into(log: int) -> None:
    """Send standard output and error to `log`, by descriptor, line by line."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    faulthandler.enable(2, all_threads=False)  # a crash in C leaves its Python stack in the log


def _answer_signals() -> None:
    """On SIGUSR1 write the stack to the log; of SIGTERM die.

    Lightning wraps the SIGTERM handler that it finds and calls it too; finding none it would only
    make a note, and the trial report the signal as its own failure. It also undoes whatever
    faulthandler does on SIGTERM, hence the other signal, which works in a hanging C call too.
    """

    def die(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, die)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ANSWERED)
    faulthandler.register(SHOW_STACK, file=2)  # all threads, the main one last


class Teller:
    """The child's end of the pipe: JSON objects, one per message."""

    def __init__(self, messages: connection.Connection) -> None:
        self._messages = messages
        self._phase = ""
        self._told_s = 0.0

    def phase(self, name: str, share: float) -> None:
        """Tell that the trial is in phase `name`, of which `share` (0..1) is done."""
        now = time.monotonic()
        if name != self._phase or now - self._told_s >= PHASE_INTERVAL_S:
            self._phase, self._told_s = name, now
            self._send({"phase": name, "share": float(share)})

    def error(self, error: BaseException) -> None:
        """Tell what ended the trial."""
        self._send({"error": describe(error)[:ERROR_CHARACTERS]})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the launcher is gone, and so are we in a moment
            self._messages.send_bytes(json.dumps(message).encode())


def describe(error: BaseException) -> str:
    """One line for a record: what ended the trial."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r})"
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return f"out of memory ({text})" if any(word in text for word in OUT_OF_MEMORY) else text


if __name__ == "__main__":
    rank(sys.argv[1], sys.argv[2])
