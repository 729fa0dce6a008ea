"""Training in every number format that `gpu.precision` offers."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

from bench.config import GpuConfig, Precision
from bench.plugins.hooks import DEFAULT_HOOKS
from bench.trial.train import MAX_GRADIENT_NORM, fit
from bench.types import Batch, Output, Recipe
from tests.fakes.line import Points


class Steep(Points):
    """Its loss is a thousand times the mean logit."""

    scale = 1000.0


class Line(nn.Module):
    """One product; records the dtype that it was computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 4)
        self.formats: list[torch.dtype] = []

    def forward(self, batch: Batch) -> Output:
        logits = self.layer(batch.inputs)
        self.formats.append(logits.dtype)
        return Output(logits)


FORMATS = {"32": torch.float32, "bf16": torch.bfloat16}


ON_A_CPU = [each for each in get_args(Precision) if each != "16"]


@pytest.mark.parametrize("precision", ON_A_CPU)
def test_every_precision_trains_with_clipped_gradients(precision: str) -> None:
    """The products are in that format, and after_step sees gradients of norm 1 at most."""
    model, norms = Line(), []

    def after_step(model: Line, progress: float) -> None:
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm())

    hooks = replace(DEFAULT_HOOKS, after_step=after_step)
    fit(model, hooks, Steep(), Recipe(4, 4, 0.01), seed=0, gpu=GpuConfig(precision=precision))
    assert set(model.formats) == {FORMATS[precision]}
    assert max(map(float, norms)) == pytest.approx(MAX_GRADIENT_NORM, rel=1e-4)


def test_fp16_on_a_cpu_is_refused() -> None:
    """It would be trained in bf16 and measured in fp16; the message names what works."""
    with pytest.raises(ValueError, match="precision='16': fp16 trains on a GPU only"):
        GpuConfig(kind="cpu", precision="16")


@pytest.mark.gpu
def test_fp16_trains_on_a_gpu() -> None:
    """The loss is scaled up, so the first steps may overflow and be left out."""
    model = Line()
    gpu = GpuConfig(kind="one", precision="16")
    fit(model, DEFAULT_HOOKS, Steep(), Recipe(4, 4, 0.01), seed=0, gpu=gpu)
    assert set(model.formats) == {torch.float16}
