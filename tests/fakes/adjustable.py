"""A subject with three operating points, of a model that computes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import MeasureConfig
from bench.measure.subject import Subject
from bench.types import Batch, Output, Quality
from tests.fakes.methods import method_of


class Task:
    """Four samples of two numbers."""

    def num_samples(self, split: str) -> int:
        return 4

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        samples = Batch(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
        return iter([samples.select(torch.arange(min(4, batch_size)))])

    def evaluate(self, model: Any, batches: Any) -> Quality:
        """No quality: there is none to choose an operating point by."""
        return Quality(math.nan, "1", "higher")


class Adjustable(nn.Module):
    """A model with a setting."""

    k = 3

    def forward(self, batch: Batch) -> Output:
        out: Tensor = batch.inputs
        return Output(out)


def adjustable(**settings: Any) -> Subject:
    """Points k = 3 (the default), 2 and 1, timed in this process."""
    return Subject(
        model=Adjustable(),
        method=method_of(
            points=lambda: [{"k": k} for k in (3, 2, 1)],
            set_point=lambda model, point: setattr(model, "k", point["k"]),
        ),
        task=Task(),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(processes=1, num_inputs=4, batch_sizes=[1, 2], **settings),
        make_baseline=nn.Module,
        is_dense=False,
    )
