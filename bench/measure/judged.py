"""What the task judged: the first batch of its evaluation, and the logits that it got for it."""

from __future__ import annotations

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

    def listen(self, model: Any) -> Any:
        """The model as the evaluation may call it; its first call is kept."""
        return _Listening(model, self)


class _Listening:
    def __init__(self, model: Any, judged: Judged) -> None:
        self._model, self._judged = model, judged

    def __call__(self, batch: Batch) -> Output:
        output: Output = self._model(batch)
        if self._judged.batch is None:
            self._judged.batch = without_targets(batch)
            # Copied, because a task may write to them; in main memory, and not too many.
            num_kept = max(1, MAX_LOGITS // max(1, output.logits[0].numel()))
            self._judged.logits = output.logits[:num_kept].detach().cpu().clone()
        return output

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's."""
        if name in ("_model", "_judged"):  # unpickling looks them up before __init__ has run
            raise AttributeError(name)
        return getattr(self._model, name)
