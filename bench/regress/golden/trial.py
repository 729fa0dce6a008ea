"""A golden trial: seeded untrained weights, recorded decisions replayed, everything counted.

Nothing here depends on a rounding error: decisions come from the recording, the input's shape from
the task. Executed FLOPs, parameters, peak tensor bytes and route counts are then integers that
repeat on every CPU. It runs with one thread and torch's own convolutions, because libraries choose
their work space by processor.

Peak tensor bytes are those of a replayed pass: a gate holds the recorded decision in place of its
own. They may therefore change by bytes with `bench.routing`, and with the local tensors that a
method's frames hold, while FLOPs and routes stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import routing
from bench.measure.inputs import Inputs, choose_inputs
from bench.measure.subject import Subject
from bench.meters.conditions import pinned_threads
from bench.meters.flops.counter import count_samples
from bench.meters.memory.tensors import measure_inference_memory
from bench.routing import Cost, Decision, Observation
from bench.trial.prepare import prepare
from bench.trial.trial import read_trial
from bench.types import Batch, Output, Unsupported

Arrays = dict[str, np.ndarray]
Counts = dict[str, Any]  # JSON: integers, lists and dicts of them


class Replayed(nn.Module):
    """A model whose gates repeat, batch by batch, what was recorded for that batch."""

    def __init__(self, model: nn.Module, recordings: dict[int, Observation]) -> None:
        super().__init__()
        self.model, self.recordings = model, recordings  # by id of the batch

    def forward(self, batch: Batch) -> Output:
        """The model's output under the recording. Raises KeyError for a gate that has none."""
        with routing.replay(self.recordings[id(batch)]):
            return self.model(batch)


@dataclass
class Golden:
    """A trial's counts, and the decisions under which they hold."""

    counts: Counts
    decisions: Arrays = field(default_factory=dict)


def measure_golden(folder: Path, recorded: Arrays | None) -> Golden:
    """Count the trial in `folder` under the `recorded` decisions; None records its own.

    Raises KeyError for a gate that the recording has no decision of.
    """
    trial = read_trial(folder)
    with pinned_threads(1), _without_onednn():
        try:
            subject, _ = prepare(trial, lambda phase, share: None)
        # A result like others: a method that becomes Unsupported is a change.
        except Unsupported as reason:
            return Golden({"skipped": str(reason) or "unsupported"})
        config = trial.config.measure
        inputs = choose_inputs(subject.task, config.num_inputs, config.batch_sizes, "cpu")
        decisions = recorded if recorded is not None else _record(subject, inputs)
        return Golden(_counts(subject, inputs, decisions), decisions)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """torch's own convolutions: oneDNN chooses its work space by processor."""
    before = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])


def _record(subject: Subject, inputs: Inputs) -> Arrays:
    """The model's own decisions on every batch, as arrays by name: b64/0/003/moe.1/run."""
    arrays: Arrays = {}
    with torch.inference_mode():
        for size, batches in inputs.by_size.items():
            for number, batch in enumerate(batches):
                with routing.observe() as seen:
                    subject.model.eval()(batch)
                # Numbered: a gate that is called several times has one entry per call.
                for order, decision in enumerate(seen.decisions):
                    start = f"b{size}/{number}/{order:03d}/{decision.name}"
                    arrays[f"{start}/run"] = decision.run.numpy()
                    if decision.index is not None:
                        arrays[f"{start}/index"] = decision.index.numpy()
    return arrays


def _recording(arrays: Arrays, size: int, number: int) -> Observation:
    """The recorded decisions of one batch, in the order of calls."""
    start = f"b{size}/{number}/"
    found = []
    # Sorted by name, which is the order of calls: the number has three digits.
    for key in sorted(name for name in arrays if name.startswith(start) and name.endswith("/run")):
        stem = key.removesuffix("/run")
        run, index = torch.from_numpy(arrays[key]), arrays.get(f"{stem}/index")
        name = stem.removeprefix(start).partition("/")[2]
        where = None if index is None else torch.from_numpy(index)
        # A replay reads names, runs and frames; what it cost is counted anew.
        found.append(Decision(name, (), run.float(), run, Cost(), where))
    return Observation(found)


def _counts(subject: Subject, inputs: Inputs, arrays: Arrays) -> Counts:
    counts: Counts = {"params": sum(p.numel() for p in subject.model.parameters())}
    for size, batches in inputs.by_size.items():
        # By identity: counting and measuring hand the very same batch objects to the model.
        recordings = {
            id(batch): _recording(arrays, size, number) for number, batch in enumerate(batches)
        }
        model = Replayed(subject.model, recordings).eval()  # a training mode would draw dropout
        with torch.inference_mode():
            flops = count_samples(model, batches)
        peaks = [measure_inference_memory(model, batch).peak_tensor_bytes for batch in batches]
        counts |= {
            f"flops_b{size}": list(flops.per_batch),
            f"flops_by_region_b{size}": dict(sorted(flops.by_region.items())),
            f"num_unknown_ops_b{size}": sum(flops.ops_without_formula.values()),
            f"peak_tensor_bytes_b{size}": peaks,
            f"routes_b{size}": _routes(model, batches),
        }
    return counts


def _routes(model: nn.Module, batches: list[Batch]) -> dict[str, list[list[int]]]:
    """Per gate and call: how many elements ran, of how many, over all batches."""
    found: dict[str, list[list[int]]] = {}
    for batch in batches:
        with torch.inference_mode(), routing.observe() as seen:
            model(batch)
        for name in dict.fromkeys(decision.name for decision in seen.decisions):
            # Per call, because a gate that is shared between layers decides in each of them.
            for call, decision in enumerate(seen.named(name)):
                calls = found.setdefault(name, [])
                if call == len(calls):
                    calls.append([0, 0])
                calls[call][0] += int(decision.run.sum())
                calls[call][1] += decision.run.numel()
    return dict(sorted(found.items()))
