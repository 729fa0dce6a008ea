"""The smallest task and model that can be trained: eight samples on a line, one product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.tasks.parts.preloaded import iterate_batches
from bench.types import Batch, Output


class Points:
    """Eight samples on a line; the loss is the mean logit times `scale`."""

    scale = 1.0

    def num_samples(self, split: str) -> int:
        return 8

    def batches(self, split: str, size: int, *, seed: int | None = None) -> Any:
        inputs = torch.arange(8.0)[:, None]
        return iterate_batches(Batch(inputs, inputs), size, seed=seed, whole=True)

    def criterion(self, output: Output, batch: Batch) -> Tensor:
        return self.scale * output.logits.mean()


class Line(nn.Module):
    """One product of [B, 1] and [1, num_outputs]."""

    def __init__(self, num_outputs: int = 1, *, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(1, num_outputs, bias=bias)

    def forward(self, batch: Batch) -> Output:
        return Output(self.layer(batch.inputs))
