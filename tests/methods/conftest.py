"""Tiny tasks and a tiny backbone for the tests of methods: two kinds, no training."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from bench.types import Batch, TaskSpec
from methods.backbone.transformer import Transformer


@dataclass(frozen=True)
class Tiny:
    """A task that exists in shapes only: 16 tokens of width 16."""

    spec: TaskSpec

    @property
    def backbone(self) -> Transformer:
        return Transformer(dim=16, depth=4, num_heads=2, hidden_multiple=2.0)

    def batch(self, num_samples: int, seed: int = 0) -> Batch:
        """Random inputs and targets."""
        generator = torch.Generator().manual_seed(seed)
        if self.spec.kind == "image":
            inputs = torch.randn(num_samples, *self.spec.input_shape, generator=generator)
            return Batch(inputs, torch.randint(5, (num_samples,), generator=generator))
        tokens = torch.randint(11, (num_samples, 17), generator=generator)
        return Batch(tokens[:, :-1], tokens[:, 1:])

    def criterion(self, output, batch):
        """Cross-entropy over classes or over positions."""
        return torch.nn.functional.cross_entropy(
            output.logits.flatten(0, -2), batch.targets.flatten()
        )


TINY = {
    "image": Tiny(TaskSpec("tiny-image", "image", (1, 8, 8), 5)),
    "text": Tiny(TaskSpec("tiny-text", "tokens", (16,), 11, vocab_size=11, causal=True)),
}


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


@pytest.fixture(params=["image", "text"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Both, one after the other."""
    return TINY[request.param]
