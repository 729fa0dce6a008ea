"""A trial's process from inside: bound to its launcher, alone in its process group.

The launcher starts `main` in a child of the fork server. The child

- leads a session of its own, so that one signal reaches it and everything that it started;
- ends when the launcher ends (`bench.launch.lifetime`);
- holds the locks of its devices and of its folder (the log file) through open files, which what it
  starts does not inherit: a lock ends with its trial (`bench.launch.lifetime`);
- writes its output into a pipe by file descriptor, so that C libraries and crashes go the same way
  to the log (`bench.launch.log`);
- starts without variables that hold keys: publishing runs in a process of its own;
- reports its phase, and the exception that ended it, through a pipe (`bench.launch.messages`).

`python -m bench.launch.child FOLDER ENTRY` is what torchrun starts once per device.
"""

from __future__ import annotations

import faulthandler
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, reduction
from pathlib import Path
from types import FrameType
from typing import Any

from bench.launch import distributed
from bench.launch.lifetime import (
    adopt_descendants,
    end_with_launcher,
    keep_to_this_process,
    kill_descendants,
)
from bench.launch.messages import Reporter
from bench.records.redaction import is_secret

SHOW_STACK = signal.SIGUSR1
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # blocked in the fork server, not in a trial


@dataclass
class InheritedFile:
    """An open file that is passed to a child process, where its descriptor has another number."""

    file: int

    def __reduce__(self) -> tuple[Callable[..., InheritedFile], tuple[Any]]:
        # DupFd sends the descriptor itself: a lock belongs to the open file, not to its path.
        return _receive, (reduction.DupFd(self.file),)


def _receive(wrapped: Any) -> InheritedFile:
    return InheritedFile(wrapped.detach())


def main(
    folder: str,
    entry: str,
    variables: dict[str, str],
    output: InheritedFile,
    locks: list[InheritedFile],
    messages: connection.Connection,
) -> None:
    """Run one trial in this fresh process.

    `entry` is "module:function", called as `function(folder, on_phase=...)`; `variables` are set in
    the environment first. The files of `locks` are never closed here: the kernel releases
    the locks when this process ends.
    """
    os.setsid()
    # First of all: whatever follows may take long, and the launcher may die meanwhile.
    end_with_launcher()
    keep_to_this_process([lock.file for lock in locks])
    adopt_descendants()
    _redirect_output(output.file)
    _install_signal_handlers()
    for name in filter(is_secret, list(os.environ)):  # the fork server may be older
        del os.environ[name]
    os.environ.update(variables)  # before the entry point imports or initialises CUDA
    reporter = Reporter(messages)
    num_gpus = len([gpu for gpu in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu])
    try:
        if num_gpus > 1:
            distributed.run_ranks(folder, entry, num_gpus)
        else:
            pkgutil.resolve_name(entry)(Path(folder), on_phase=reporter.report_phase)
    except BaseException as error:
        # Reported and raised again: the traceback belongs into the log, the exit code to the OS.
        reporter.report_error(error)
        raise
    finally:
        # Also what has left this session: it would disturb the next measurement on the device.
        kill_descendants()


def _redirect_output(output: int) -> None:
    """Send standard output and error into `output`, by descriptor, line by line."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what the fork server had buffered is not this trial's output
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    # New streams: those of the fork server may be in ASCII, and seek in a file where it printed.
    for number, name in ((1, "stdout"), (2, "stderr")):
        kind: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "buffering": 1}
        setattr(sys, name, open(number, "w", closefd=False, **kind))  # noqa: SIM115
    faulthandler.enable(2, all_threads=False)  # a crash in C leaves its Python stack in the log


def _install_signal_handlers() -> None:
    """Write the stack to the log on SIGUSR1; die of SIGTERM.

    Lightning wraps the SIGTERM handler that it finds and calls it too. Without one it would only
    set a flag, and the trial would report the signal as its own failure. Lightning also disables
    what faulthandler does on SIGTERM, hence SIGUSR1, which works in a hanging C call too.
    """

    def die(number: int, frame: FrameType | None) -> None:
        # With the default action the exit code names the signal.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, die)
    # The mask is inherited from the fork server; handlers first, or a pending signal hits none.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    faulthandler.register(SHOW_STACK, file=2)  # all threads, the main one last


if __name__ == "__main__":
    distributed.run_rank(sys.argv[1], sys.argv[2])
