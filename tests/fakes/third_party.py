"""A third-party package in one file: a task, a backbone and a method that truly skips.

It imports torch, bench.types and bench.routing only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bench.routing import SAMPLES, decide
from bench.types import Batch, Output, Quality, Recipe, TaskSpec, Unsupported

NUM_SAMPLES = {"train": 256, "calibration": 64, "test": 64}


@dataclass
class Sides:
    """On which side of a plane does a point lie?"""

    dim: int = 8
    version: int = 1

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("sides", "image", (1, 1, self.dim), 2)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=30, batch_size=32, lr=0.05)

    def data_hash(self) -> str:
        return f"sides-{self.dim}"

    def num_samples(self, split):
        return NUM_SAMPLES[split]

    def batches(self, split, batch_size, *, seed=None):
        number = NUM_SAMPLES[split]
        source = torch.Generator().manual_seed(number)
        points = torch.randn(number, 1, 1, self.dim, generator=source)
        sides = (points.sum((1, 2, 3)) > 0).long()
        order = torch.arange(number)
        if seed is not None:
            order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
        for rows in order.split(batch_size):
            yield Batch(points[rows], sides[rows])

    def criterion(self, output, batch):
        return nn.functional.cross_entropy(output.logits, batch.targets)

    def evaluate(self, model, batches):
        right = torch.cat([model(b).logits.argmax(-1) == b.targets for b in batches])
        return Quality(100.0 * right.float().mean().item(), "%", "higher", chance=50.0)


class Net(nn.Module):
    """Two layers, of which the second may be replaced."""

    def __init__(self, spec, second):
        super().__init__()
        dim = spec.input_shape[-1]
        self.first, self.second = nn.Linear(dim, dim), second(dim)
        self.head = nn.Linear(dim, spec.num_outputs)

    def forward(self, batch):
        x = self.first(batch.inputs.flatten(1)).relu()  # [B, D]
        return Output(self.head(x + self.second(x)))


@dataclass
class Small:
    """Two layers."""

    def build(self, spec, *, ffn=None, attention=None, block=None):
        if spec.kind != "image":
            raise Unsupported("needs points")
        return Net(spec, lambda dim: ffn(dim, dim) if ffn else nn.Linear(dim, dim))


@dataclass
class Sometimes:
    """Runs the second layer for the samples that a gate chooses."""

    bias: float = 0.0

    def build(self, spec, backbone):
        return backbone.build(spec, ffn=lambda dim, hidden: GatedLayer(dim, self.bias))


class GatedLayer(nn.Module):
    def __init__(self, dim, bias):
        super().__init__()
        self.gate, self.layer, self.bias = nn.Linear(dim, 1), nn.Linear(dim, dim), bias

    def forward(self, x):  # [B, D]
        probability = (self.gate(x).squeeze(-1) + self.bias).sigmoid()  # [B]
        cost = 2.0 * self.layer.weight.numel()
        run = decide(
            "layer", axes=SAMPLES, probabilities=probability, run=probability > 0.5, cost=cost
        )
        if self.training:
            return self.layer(x) * (run + probability - probability.detach())[:, None]
        y = torch.zeros_like(x)
        rows = run.nonzero().squeeze(-1)
        return y.index_copy(0, rows, self.layer(x[rows])) if len(rows) else y


@dataclass
class Picky:
    """A method that supports no task."""

    def build(self, spec, backbone):
        raise Unsupported("needs tokens")


@dataclass
class Raising:
    """A method with a bug."""

    def build(self, spec, backbone):
        raise RuntimeError("a mistake of its own")
