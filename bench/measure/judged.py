"""What the task judged: the first batch of its evaluation, and the logits that it got for it.

Judged      the batch and its logits
Overheard   a model whose calls are listened to while a task evaluates it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.measure.blind import without_targets
from bench.types import Batch, Output

MAX_LOGITS = 2**22  # kept, of whole samples: 16 MiB


@dataclass
class Judged:
    """Empty until the evaluation has called the model, and where it never does as a whole."""

    batch: Batch | None = None  # as the model got it, without the targets
    logits: Tensor | None = None  # of its first samples

    def hear(self, batch: Batch, output: Output) -> None:
        """Keep the first call."""
        if self.batch is not None:
            return
        self.batch = without_targets(batch)
        # Copied, because a task may write to them; in main memory, and not too many.
        num_kept = max(1, MAX_LOGITS // max(1, output.logits[0].numel()))
        self.logits = output.logits[:num_kept].detach().cpu().clone()


class Overheard:
    """A model as an evaluation may call it; every call is given to all of `listeners`."""

    def __init__(self, model: Any, *listeners: Callable[[Batch, Output], None]) -> None:
        self._model, self._listeners = model, listeners

    def __call__(self, batch: Batch) -> Output:
        output: Output = self._model(batch)
        for hear in self._listeners:
            hear(batch, output)
        return output

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's."""
        if name in ("_model", "_listeners"):  # unpickling looks them up before __init__ has run
            raise AttributeError(name)
        return getattr(self._model, name)
