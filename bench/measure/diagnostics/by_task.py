"""Which parts of a network serve which task, where a data set mixes several.

Its extras give the attribute `task`, a number per sample, and may name the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.measure.diagnostics.difficulty import NoCorrelation, attributes_of, places
from bench.measure.diagnostics.frames import Frame
from bench.measure.inputs import Inputs
from bench.types import Batch, Task, extras_of

Entry = dict[str, Any]


def measure_by_task(
    task: Task, inputs: Inputs, frames: Sequence[Frame], flops: np.ndarray
) -> list[Entry]:
    """One entry per task among the inputs: its name, samples, mean FLOPs, and every gate's routing.

    `frames` were watched over the largest batches of `inputs`; `flops` [num_inputs] are executed at
    batch 1 in the order of `inputs.samples`. Raises NoCorrelation where there are no tasks.
    """
    attributes = attributes_of(task)
    if "task" not in attributes:
        raise NoCorrelation("the data are of one task")
    of_sample = attributes["task"].cpu()
    alone = _tasks(task, inputs.samples, of_sample)
    issued = _tasks(task, inputs.by_size[max(inputs.by_size)], of_sample)
    names = extras_of(task).task_names
    return [
        {
            "task": str(names[number]) if number < len(names) else f"task {number}",
            "num_samples": int((alone == number).sum()),
            "flops_per_sample": float(flops[(alone == number).numpy()].mean()),
            "gates": [_served(frame, issued == number) for frame in frames],
        }
        for number in alone.unique().tolist()
    ]


def _tasks(task: Task, batches: list[Batch], of_sample: torch.Tensor) -> torch.Tensor:
    """The task of every sample in `batches`, [N]."""
    return of_sample[torch.as_tensor(places(task, batches))]


def _served(frame: Frame, chosen: torch.Tensor) -> Entry:
    """What one gate does for the `chosen` samples, bool [N]: share that runs, load of its groups.

    Null for a gate that whole batches never reached: which samples it decided on is unknown.
    """
    if len(frame.run) != len(chosen):
        return {"name": frame.name, "executed_share": None, "load": None}
    run = frame.run[chosen][frame.real[chosen]]  # [M] or [M, G]
    counts = run.sum(0).double() if frame.has_units and run.any() else None
    return {
        "name": frame.name,
        "executed_share": float(run.double().mean()),
        "load": None if counts is None else [float(share) for share in counts / counts.sum()],
    }
