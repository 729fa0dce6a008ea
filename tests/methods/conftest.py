"""Tiny tasks and a tiny backbone for the tests of methods: shapes only, no training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from torch import nn

from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.transformer import Transformer


@dataclass(frozen=True)
class Tiny:
    """A task that exists in shapes only: 16 tokens of width 16."""

    spec: TaskSpec

    @property
    def backbone(self) -> Transformer:
        return Transformer(dim=16, depth=4, num_heads=2, hidden_multiple=2.0, image_stride=2)

    def batch(self, num_samples: int, seed: int = 0) -> Batch:
        """Random inputs and targets."""
        generator = torch.Generator().manual_seed(seed)
        if self.spec.kind == "image":
            inputs = torch.randn(num_samples, *self.spec.input_shape, generator=generator)
            return Batch(inputs, torch.randint(5, (num_samples,), generator=generator))
        tokens = torch.randint(11, (num_samples, 17), generator=generator)
        if not self.spec.causal:
            lengths = torch.randint(4, 17, (num_samples, 1), generator=generator)
            classes = torch.randint(5, (num_samples,), generator=generator)
            return Batch(tokens[:, :-1], classes, mask=torch.arange(16) < lengths)
        return Batch(tokens[:, :-1], tokens[:, 1:])

    def criterion(self, output, batch):
        """Cross-entropy over classes or over positions."""
        return torch.nn.functional.cross_entropy(
            output.logits.flatten(0, -2), batch.targets.flatten()
        )


TINY = {
    "image": Tiny(TaskSpec("tiny-image", "image", (1, 8, 8), 5)),
    "text": Tiny(TaskSpec("tiny-text", "tokens", (16,), 11, vocab_size=11, causal=True)),
    "labels": Tiny(TaskSpec("tiny-labels", "tokens", (16,), 5, vocab_size=11)),
}


@dataclass(frozen=True)
class BuiltIn:
    """One of our methods, with its default settings, on a tiny task that it supports."""

    name: str
    method: Any
    tiny: Tiny

    def model(self) -> nn.Module:
        """Its model, calibrated and in inference mode; from a dense one if it can start there."""
        torch.manual_seed(1)
        if hasattr(self.method, "convert"):
            dense = self.tiny.backbone.build(self.tiny.spec).eval()
            model = self.method.convert(dense, [self.tiny.batch(4)])
        else:
            model = self.method.build(self.tiny.spec, self.tiny.backbone)
        for name, parameter in model.named_parameters():
            if name.endswith("linear.weight"):
                # Untrained heads would be equally unsure about every input.
                nn.init.normal_(parameter, std=0.7)
        model.eval()
        if hasattr(self.method, "calibrate"):
            with torch.no_grad():
                self.method.calibrate(model, [self.tiny.batch(16, seed) for seed in range(3)])
        return model

    def at_points(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model at each operating point in turn."""
        if not hasattr(self.method, "points"):
            yield model
            return
        for point in self.method.points():
            self.method.set_point(model, point)
            yield model

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The training loss, as the harness computes it."""
        if hasattr(self.method, "loss"):
            return self.method.loss(model, batch, self.tiny.criterion, 0.5)
        output = model(batch)
        return self.tiny.criterion(output, batch) + output.aux_loss


def _built_ins() -> Iterator[BuiltIn]:
    for door in entry_points(group="condbench.methods"):
        if door.value.startswith("methods."):
            for tiny in TINY.values():
                found = BuiltIn(door.name, door.load()(), tiny)
                try:
                    found.method.build(tiny.spec, tiny.backbone)
                except Unsupported:
                    continue
                yield found


@pytest.fixture(params=_built_ins(), ids=lambda b: f"{b.name}-{b.tiny.spec.name}")
def built_in(request: pytest.FixtureRequest) -> BuiltIn:
    """Every built-in method on every tiny task that it supports."""
    return request.param


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random weights in every run."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_image() -> Tiny:
    """Images of 8 x 8 pixels in 5 classes: 16 tokens."""
    return TINY["image"]


@pytest.fixture
def tiny_text() -> Tiny:
    """Windows of 16 tokens over 11 symbols, each predicting the next."""
    return TINY["text"]


@pytest.fixture
def tiny_labels() -> Tiny:
    """Padded sequences of 4 to 16 tokens, each with one of 5 labels."""
    return TINY["labels"]


@pytest.fixture(params=["image", "text", "labels"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """All of them, one after the other."""
    return TINY[request.param]
