"""A row whose products have fewer bits than the dense model's names them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from bench.measure.flops.precision import measure_precision
from bench.measure.inputs import Inputs
from bench.types import Batch, Output

DIM = 8


class Layers(nn.Module):
    """Four equal layers, the last `num_low` of them in bfloat16; in batches only, or everywhere."""

    def __init__(self, num_low: int, alone: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(DIM, DIM, bias=False) for _ in range(4))
        self.num_low, self.alone = num_low, alone

    def forward(self, batch: Batch) -> Output:
        x = batch.inputs
        for number, layer in enumerate(self.layers):
            is_low = number >= 4 - self.num_low and (self.alone or len(x) > 1)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
                x = layer(x).float()
        return Output(x)


def notes(method: nn.Module, dense: nn.Module) -> list[str]:
    batch = Batch(torch.ones(4, DIM), torch.zeros(4, dtype=torch.long))
    singles = [batch.select(torch.tensor([n])) for n in range(4)]
    inputs = Inputs({1: singles, 4: [batch]})
    return list(measure_precision(SimpleNamespace(model=method), dense, inputs).notes)


def test_lower_precision_is_named_with_its_share() -> None:
    """One layer of four in bfloat16 beside a dense model in float32."""
    (note,) = notes(Layers(1), Layers(0))
    assert note == (
        "lower precision: of the FLOPs 25% in bfloat16; the dense model computes in float32"
    )


def test_lower_precision_in_batches_only_is_named() -> None:
    """Three inputs alone in float32, four in a batch with all layers in bfloat16: 4 of 7."""
    (note,) = notes(Layers(4, alone=False), Layers(0))
    assert "57% in bfloat16" in note


def test_the_dense_models_own_format_is_no_news() -> None:
    """Both in bfloat16, or the method in more bits than the dense model."""
    assert notes(Layers(4), Layers(4)) == []
    assert notes(Layers(0), Layers(4)) == []
    assert notes(Layers(2), Layers(1)) == []
