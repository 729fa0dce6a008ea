"""One trial of one revision in one process, timed block by block on request.

    python -m bench.regress.revisions.worker

JSON lines: a request on stdin, its reply on stdout.

    {"do": "canary", "device": "cpu", "threads": null, "warmup_s": 0.5}
                                                   no trial, the canary only; reply: its threads
    {"do": "open", "folder": F}                    train; reply: quality, counts, environment
    {"do": "warm", "work": "b64"}                  run until times settle; reply: seconds of a pass
    {"do": "block", "work": "b64", "passes": 3}    reply: seconds of that many passes
    {"do": "window", "work": "b64", "seconds": 5}  reply: joules of a pass
    {"do": "quality", "folder": F}                 train another seed; reply: its quality

`work` is a batch size of the trial or the canary. The process that sends requests decides the
order, so that two revisions take turns; the worker ends with it. Names of requests and fields are
part of the protocol (`replies.PROTOCOL`): another revision's code sends and reads them.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure.inputs import Inputs, choose_inputs
from bench.measure.quality.judge import evaluate
from bench.measure.subject import Subject
from bench.meters.conditions import evaluation_mode, gc_disabled, pinned_threads
from bench.meters.energy import EnergyMeter, EnergyReading, EnergyRefused
from bench.meters.flops.counter import count_samples
from bench.meters.memory.parameters import count_resident_params
from bench.meters.memory.tensors import measure_inference_memory
from bench.meters.time.canary import canary
from bench.meters.time.stopwatch import stopwatch_for
from bench.meters.time.warmup import warm_up
from bench.records import catalogue, environment
from bench.records.redaction import bounded
from bench.trial.prepare import prepare
from bench.trial.trial import read_trial
from bench.types import Unsupported

# Not imported from the comparison's side: each revision's worker states its own protocol.
PROTOCOL = 1
CANARY = "canary"
MAX_ERROR = 4000  # characters of an exception's message
Reply = dict[str, Any]


class Worker:
    """The open trial, ready to run; its resources are held until the process ends."""

    def __init__(self) -> None:
        self.works: dict[str, Callable[[int], None]] = {}  # name -> run that many passes
        self.meter: EnergyMeter | None = None
        self.held = ExitStack()

    def canary(self, device: str, threads: int | None, warmup_s: float) -> Reply:
        """Make the canary callable without a trial; the number of threads that it runs with."""
        num_threads = self._pin(threads)
        self.device, self.warmup_s = torch.device(device), warmup_s
        self.watch = stopwatch_for(self.device)
        self.works = {CANARY: canary(self.device)}
        self.held.enter_context(gc_disabled())
        return {"num_threads": num_threads}

    def _pin(self, threads: int | None) -> int:
        """Pin the threads of this process, by default one for each physical core; their number."""
        num_threads = threads or environment.num_physical_cores()
        self.held.enter_context(pinned_threads(num_threads))
        return num_threads

    def open(self, folder: str) -> Reply:
        """Train the trial in `folder`; its quality, counts and environment, or `skipped`: why."""
        trial = read_trial(Path(folder))
        threads = self._pin(trial.config.gpu.threads)
        try:
            with repeatable():
                subject, _ = prepare(trial, lambda phase, share: None)
                quality = _quality(subject)
        except Unsupported as reason:
            return {"protocol": PROTOCOL, "skipped": str(reason) or "unsupported"}
        config = trial.config.measure
        inputs = choose_inputs(subject.task, config.num_inputs, config.batch_sizes, subject.device)
        # Counted before anything is held for timing: counting runs the model with hooks.
        reply = {"protocol": PROTOCOL, **quality, "counts": _counts(subject, inputs)}
        self._prepare_works(subject, inputs)
        reply["environment"] = {
            "num_threads": threads,
            "gpus": environment.gpus(),
            "versions": environment.versions(),
        }
        return reply

    def _prepare_works(self, subject: Subject, inputs: Inputs) -> None:
        """Make every workload callable, and hold the process in the state for timing."""
        self.device, self.watch = subject.device, stopwatch_for(subject.device)
        self.warmup_s = subject.config.warmup_s
        sizes = subject.config.batch_sizes
        self.works = {
            f"b{s}": partial(_run_passes, subject.model, inputs.by_size[s]) for s in sizes
        }
        self.works[CANARY] = canary(subject.device)
        # Until the process ends, not per block: entering them must not be timed.
        self.held.enter_context(evaluation_mode(subject.model))
        self.held.enter_context(gc_disabled())

    def warm(self, work: str) -> Reply:
        """Run until times settle; the seconds of one pass and whether they did."""
        found = warm_up((self.works[work],), self.watch, self.warmup_s)
        return {"pass_s": found.pass_s[0], "steady": found.steady}

    def window(self, work: str, seconds: float) -> Reply:
        """Joules of a pass, from a window of whole passes; or `refused`: why there are none."""
        step = partial(self.works[work], 1)  # the meter repeats it until the window is full
        try:
            # Once: idle power and heating up take several windows.
            if self.meter is None:
                self.meter = self.held.enter_context(EnergyMeter(self.device))
                self.meter.rig.board.num_partners = 1  # the other revision's worker, which waits
                self.meter.calibration(seconds, step)
                self.meter.heat_up(step, seconds)
            reading = self.meter.measure(step, seconds)
        except EnergyRefused as refusal:
            return {"refused": refusal.reason}
        return {"joules": reading.j_per_pass, "doubt": _doubt(reading)}

    def quality(self, folder: str) -> Reply:
        """Train the trial in `folder`, another seed; its quality."""
        trial = read_trial(Path(folder))
        threads = trial.config.gpu.threads or environment.num_physical_cores()
        with pinned_threads(threads), repeatable():
            subject, _ = prepare(trial, lambda phase, share: None)
            return _quality(subject)

    def block(self, work: str, passes: int) -> Reply:
        """Seconds of `passes` passes, to their end on the device."""
        return {"seconds": self.watch.measure(partial(self.works[work], passes)).host_s}


@contextmanager
def repeatable() -> Iterator[None]:
    """Sums in one order, where torch has such a kernel, so that equal code trains equal models.

    On a GPU atomic additions differ from run to run. Off while timing: these kernels are not those
    that `condbench run` times.
    """
    # warn_only: an op without such a kernel must not end the night.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _run_passes(model: Callable[[Any], object], batches: list[Any], num_passes: int) -> None:
    for _ in range(num_passes):
        for batch in batches:
            model(batch)


def _doubt(reading: EnergyReading) -> str | None:
    """Why the joules must not count; None where they count."""
    if reading.device == "fake":
        return "measured with a fake device"
    if reading.scope != "gpu":
        # Shared with other devices: the difference could be theirs.
        return f"only the whole {reading.scope}'s energy can be read"
    return reading.reason


def _quality(subject: Subject) -> Reply:
    quality = evaluate(subject, subject.points()[0])  # at the default operating point
    value = float(quality.value)
    return {
        "quality": value if np.isfinite(value) else None,
        "quality_unit": quality.unit,
        "direction": quality.direction,
    }


def _counts(subject: Subject, inputs: Inputs) -> dict[str, float]:
    """Parameters, executed FLOPs and peak of live tensors: evidence for code as a cause.

    Not the device's memory: the other revision trains on it at the same time.
    """
    with torch.inference_mode():
        alone = count_samples(subject.model, inputs.samples)
    counts = {
        catalogue.PARAMS.key: float(count_resident_params(subject.model, inputs.samples[:1])),
        catalogue.FLOPS.key: float(np.mean(alone.per_batch)),
    }
    for size, batches in inputs.by_size.items():
        memory = measure_inference_memory(subject.model, batches[0])
        counts[catalogue.PEAK_BYTES.at(size)] = float(memory.peak_tensor_bytes)
    return counts


def serve(requests: queue.Queue[dict[str, Any]], reply: Callable[[Reply], None]) -> None:
    """Reply to requests for ever. An exception is a reply too: {"error": its text}."""
    worker = Worker()
    handlers: dict[str, Callable[..., Reply]] = {
        "canary": worker.canary,
        "open": worker.open,
        "warm": worker.warm,
        "block": worker.block,
        "window": worker.window,
        "quality": worker.quality,
    }
    while True:
        request = requests.get()
        try:
            reply({"ok": handlers[request.pop("do")](**request)})
        # SystemExit too: a method that calls sys.exit() must not look like a crash.
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            reply({"error": bounded(f"{type(error).__name__}: {error}", MAX_ERROR)})


def main() -> None:
    """Serve stdin; other output of this process goes to stderr."""
    # The file descriptor, not sys.stdout: libraries in C print to descriptor 1 as well.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(content: Reply) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    # Read in a thread: the end of stdin must end a training that is in progress.
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    serve(requests, reply)


def _read_requests(requests: queue.Queue[dict[str, Any]]) -> None:
    """Queue requests as they arrive; end this process with the one that sends them."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)  # sys.exit() would end this thread only


if __name__ == "__main__":
    main()
