"""Decisions that depend on the batch: on all of it, or on one sample of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.check.contracts.independence import _led_by_one
from bench.routing import SAMPLES, decide, region
from bench.types import Batch, Output


class Deciding(nn.Module):
    """One gate: `choose` makes [B] bool of the inputs [B]."""

    def __init__(self, choose) -> None:
        super().__init__()
        self.choose = choose

    def forward(self, batch: Batch) -> Output:
        with region("router"):
            run = self.choose(batch.inputs)
            decide("gate", axes=SAMPLES, probabilities=run.float(), run=run, cost=1.0)
        return Output(batch.inputs[:, None])


def found(choose) -> list[str]:
    inputs = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0])  # places 0 to 2 differ in turn
    batch = Batch(inputs, torch.zeros(6, dtype=torch.long))
    return [str(each) for each in _led_by_one(Deciding(choose), batch)]


def test_one_sample_that_decides_for_all_is_named() -> None:
    """Whichever place it stands in."""
    for place in (0, 2):
        (message,) = found(lambda x, p=place: (x[min(p, len(x) - 1)] > 0).expand(len(x)))
        assert (
            message == f"gate 'gate': in a batch of 6 all run what sample {place} of it runs alone"
        )


def test_choices_of_a_whole_batch_are_allowed() -> None:
    """The largest half of the batch, the mean's sign, and a gate that is always open."""
    assert found(lambda x: x > x.median()) == []
    assert found(lambda x: (x.mean() > 0.1).expand(len(x))) == []
    assert found(lambda x: torch.ones(len(x), dtype=torch.bool)) == []


def test_samples_that_decide_for_themselves_are_allowed() -> None:
    """Each sample does what it does alone."""

    def own(x: Tensor) -> Tensor:
        return x > 0

    assert found(own) == []
