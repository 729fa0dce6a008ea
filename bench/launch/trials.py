"""The local queue: every trial folder in a fresh process, one per free device.

    run_trials(folders) -> Summary

Processes come from a fork server that has torch and Lightning imported already, so that a trial
starts in hundredths of a second and yet shares nothing with the one before. Whatever happens to a
trial, its folder says so: the trial writes its own record, and the launcher writes a `failed` one
for a trial that could not. Several launchers may work on one tree: a folder belongs to whoever has
its log locked (bench.launch.pending), a device to whoever has its lock (bench.launch.devices).

Ctrl-C ends the running trials without a record and says how to go on; a second one kills them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.launch import running
from bench.launch.devices import Machine
from bench.launch.pending import Pending
from bench.launch.progress import Display, open_display
from bench.launch.queue import Queue, Stop, Summary

ENTRY = "bench.trial.run:run"
# What most trials import; scikit-learn is behind task=digits.
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
    trials and never beside a measurement; what it raises is shown and stops nothing.
    `entry` is the function that a trial's process calls, `preload` the modules that the fork
    server imports first. A trial that fails is an outcome, not an exception.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    queue = Queue(
        pending=[Pending(Path(folder).resolve()) for folder in folders],
        machine=machine or Machine.observed(),
        display=display or open_display(),
        after_record=after_record or (lambda folder: None),
        start=lambda *arguments: running.start(context, entry, *arguments),
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
    reader, writer = os.pipe()
    stop = Stop(reader)

    def handle(number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        os.write(writer, b"!")

    ours = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if ours else ()
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
