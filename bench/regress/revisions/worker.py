"""One trial of one revision in one process, timed block by block on request.

    python -m bench.regress.revisions.worker

JSON lines: a request on stdin, its answer on stdout.

    {"do": "open", "folder": F}                    train; answers what it is: quality, counts
    {"do": "warm", "work": "b64"}                  until times settle; answers seconds of a pass
    {"do": "block", "work": "b64", "passes": 3}    answers seconds of that many passes
    {"do": "window", "work": "b64", "seconds": 5}  answers joules of a pass
    {"do": "quality", "folder": F}                 trains another seed; answers its quality

`work` is a batch size of the trial or the canary. Whoever asks decides the order, so that two
revisions take turns; the process ends with the one that asks.
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
from bench.records import environment
from bench.trial.prepare import prepare, read_trial
from bench.types import Unsupported

PROTOCOL = 1
CANARY = "canary"
Answer = dict[str, Any]


class Worker:
    """The open trial; what it holds ends with the process."""

    def __init__(self) -> None:
        self.works: dict[str, Callable[[int], None]] = {}
        self.meter: EnergyMeter | None = None
        self.held = ExitStack()

    def open(self, folder: str) -> Answer:
        """Train the trial in `folder` and say what it is; where it cannot, `skipped` says why."""
        trial = read_trial(Path(folder))
        threads = trial.config.gpu.threads or environment.num_physical_cores()
        self.held.enter_context(pinned_threads(threads))
        try:
            with repeatable():
                subject, _ = prepare(trial, lambda phase, share: None)
                quality = _quality(subject)
        except Unsupported as answer:
            return {"protocol": PROTOCOL, "skipped": str(answer) or "unsupported"}
        config = trial.config.measure
        inputs = choose_inputs(subject.task, config.num_inputs, config.batch_sizes, subject.device)
        told = {"protocol": PROTOCOL, **quality, "counts": _counts(subject, inputs)}
        self._ready(subject, inputs)
        told["environment"] = {
            "num_threads": threads,
            "gpus": environment.gpus(),
            "versions": environment.versions(),
        }
        return told

    def _ready(self, subject: Subject, inputs: Inputs) -> None:
        self.device, self.watch = subject.device, stopwatch_for(subject.device)
        self.warmup_s = subject.config.warmup_s
        sizes = subject.config.batch_sizes
        self.works = {f"b{s}": partial(_run, subject.model, inputs.by_size[s]) for s in sizes}
        self.works[CANARY] = canary(subject.device)
        self.held.enter_context(evaluation_mode(subject.model))
        self.held.enter_context(gc_disabled())

    def warm(self, work: str) -> Answer:
        """Run until times settle; the seconds of one pass and whether they did."""
        found = warm_up((self.works[work],), self.watch, self.warmup_s)
        return {"pass_s": found.pass_s[0], "steady": found.steady}

    def window(self, work: str, seconds: float) -> Answer:
        """Joules of a pass, from a window of whole passes; `refused` says why there are none."""
        step = partial(self.works[work], 1)
        try:
            if self.meter is None:
                self.meter = self.held.enter_context(EnergyMeter(self.device))
                self.meter.rig.board.num_partners = 1  # the other revision's worker, which waits
                self.meter.calibration(seconds, step)
                self.meter.heat_up(step, seconds)
            reading = self.meter.measure(step, seconds)
        except EnergyRefused as refusal:
            return {"refused": refusal.reason}
        return {"joules": reading.j_per_pass, "doubt": _doubt(reading)}

    def quality(self, folder: str) -> Answer:
        """Train the trial in `folder`, another seed, and say how well it does."""
        trial = read_trial(Path(folder))
        threads = trial.config.gpu.threads or environment.num_physical_cores()
        with pinned_threads(threads), repeatable():
            subject, _ = prepare(trial, lambda phase, share: None)
            return _quality(subject)

    def block(self, work: str, passes: int) -> Answer:
        """Seconds of `passes` passes, to their end on the device."""
        return {"seconds": self.watch.measure(partial(self.works[work], passes)).host_s}


@contextmanager
def repeatable() -> Iterator[None]:
    """Sums in one order, where torch has such a kernel: equal code is to train equal models.

    On a GPU atomic additions differ from run to run. Never on while timing: these kernels are not
    those that `condbench run` times.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _run(model: Callable[[Any], object], batches: list[Any], num_passes: int) -> None:
    for _ in range(num_passes):
        for batch in batches:
            model(batch)


def _doubt(reading: EnergyReading) -> str | None:
    """Why the joules must not count; None where they do."""
    if reading.device == "fake":
        return "measured with a fake device"
    if reading.scope != "gpu":
        return f"only the whole {reading.scope}'s energy can be read"
    return reading.reason


def _quality(subject: Subject) -> Answer:
    quality = evaluate(subject, subject.points()[0])
    value = float(quality.value)
    return {
        "quality": value if np.isfinite(value) else None,
        "quality_unit": quality.unit,
        "direction": quality.direction,
    }


def _counts(subject: Subject, inputs: Inputs) -> dict[str, float]:
    """Parameters, executed FLOPs and peak of live tensors: what points at code.

    Nothing of the device's own memory: the other revision trains there at the same time.
    """
    with torch.inference_mode():
        alone = count_samples(subject.model, inputs.samples)
    counts = {
        "model/params": float(count_resident_params(subject.model)),
        "infer/flops_per_sample": float(np.mean(alone.per_batch)),
    }
    for size, batches in inputs.by_size.items():
        seen = measure_inference_memory(subject.model, batches[0])
        counts[f"infer/peak_tensor_bytes_b{size}"] = float(seen.peak_tensor_bytes)
    return counts


def serve(requests: queue.Queue[dict[str, Any]], answer: Callable[[Answer], None]) -> None:
    """Answer requests for ever. What goes wrong is an answer too: its reason."""
    worker = Worker()
    known: dict[str, Callable[..., Answer]] = {
        "open": worker.open,
        "warm": worker.warm,
        "block": worker.block,
        "window": worker.window,
        "quality": worker.quality,
    }
    while True:
        request = requests.get()
        try:
            answer({"ok": known[request.pop("do")](**request)})
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Serve stdin; whatever else is printed goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(told: Answer) -> None:
        channel.write(json.dumps(told) + "\n")
        channel.flush()

    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    serve(requests, answer)


def _listen(requests: queue.Queue[dict[str, Any]]) -> None:
    """Requests as they come. The end of stdin is the end of who asks: stop at once."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
