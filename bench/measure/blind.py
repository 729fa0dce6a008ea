"""A model is called without the targets, unless its method declares that it reads them.

Quality, FLOPs, time and energy of a method that peeks are then those of a method that cannot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bench.measure.subject import Subject
from bench.plugins.hooks import Flags
from bench.records.record import DEPENDS_ON_BATCH, UPPER_BOUND
from bench.types import Batch, Output


def without_targets(batch: Batch) -> Batch:
    """The batch with class or token 0 for every target."""
    # Zeros, not None: a model may read shape and type of the targets, such as their length.
    return replace(batch, targets=torch.zeros_like(batch.targets))


class Blind:
    """A model as a task may call it: the task has the targets, the model does not."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, batch: Batch) -> Output:
        output: Output = self._model(without_targets(batch))
        return output

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's."""
        if name == "_model":  # unpickling looks it up before __init__ has run
            raise AttributeError(name)
        return getattr(self._model, name)  # eval(), parameters(), generate(), ...


def model_to_evaluate(subject: Subject) -> Any:
    """The subject's model as the task's evaluation may call it."""
    return subject.model if subject.method.flags.reads_targets else Blind(subject.model)


def method_notes(flags: Flags) -> list[str]:
    """What the method declares of itself and a reader of its row needs."""
    # The report finds rows by the exact text of the two constants.
    notes = [UPPER_BOUND] if flags.reads_targets else []
    if flags.compaction:
        notes.append(f"in a batch, {flags.compaction}")
    if not flags.batch_invariant:
        notes.append(DEPENDS_ON_BATCH)
    return notes
