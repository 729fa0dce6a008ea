"""The local queue: every trial folder in a fresh process, one per free device.

    run_trials(folders) -> Summary

Processes come from a fork server that has already imported torch and Lightning. A trial therefore
starts in hundredths of a second and still shares no state with the one before. Every trial ends in
a record: its own, or a `failed` one that the launcher writes where the trial could not. Several
launchers may work on one tree: the lock on its log reserves a folder (bench.launch.pending), the
lock file of a device reserves the device (bench.launch.devices).

Ctrl-C ends the running trials without a record, so that a rerun resumes; a second one kills them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.launch import fork_server, process
from bench.launch.devices import Machine
from bench.launch.outcome import Summary
from bench.launch.pending import PendingTrial
from bench.launch.progress import Display, open_display
from bench.launch.queue import Queue, Stop

ENTRY = "bench.trial.run:run"
# What most trials import: loaded once in the fork server instead of once per trial. None of it
# may start threads or initialise CUDA, neither of which survives a fork. task=digits needs sklearn.
PRELOAD = (
    *("torch", "pytorch_lightning", "sklearn.datasets"),
    *("bench.trial.run", "bench.launch.child"),
)


def run_trials(
    folders: Sequence[Path],
    *,
    machine: Machine | None = None,
    display: Display | None = None,
    after_record: Callable[[Path], None] | None = None,
    entry: str = ENTRY,
    preload: Sequence[str] = PRELOAD,
) -> Summary:
    """Run the trials in `folders`, in order, as devices become free.

    Each folder's trial.json names the device (`gpu`) and the time limit (`timeout_s`, seconds).
    `after_record(folder)` is called once per trial that this launcher brought to a record, between
    trials and never during a measurement; its exceptions are displayed and stop nothing. `entry`
    is the function that a trial's process calls, as "module:function"; `preload` lists the modules
    that the fork server imports first. A trial that fails is an outcome, not an exception.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([fork_server.NAME, *preload])
    queue = Queue(
        pending=[PendingTrial(Path(folder).resolve()) for folder in folders],
        machine=machine or Machine.detect(),
        display=display or open_display(),
        after_record=after_record or (lambda folder: None),
        start_process=lambda *arguments: process.start(context, entry, *arguments),
    )
    with _stop_signals() as stop, queue.display:
        queue.display.begin([trial.group for trial in queue.pending])
        queue.run(stop)
    return queue.summary


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a request; a second one raises KeyboardInterrupt.

    A signal that is ignored stays ignored. Outside the main thread signals are left alone.
    """
    # A pipe besides the flag: it wakes the queue from its wait for trials.
    reader, writer = os.pipe()
    stop = Stop(reader)

    def handle(number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        os.write(writer, b"!")

    # Python allows signal handlers in the main thread only.
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    # A shell ignores SIGINT for what it runs in the background; that is the user's choice.
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
