"""Which sub-networks serve which task, worked out by hand on recorded decisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.measure.diagnostics.by_task import measure_by_task
from bench.measure.diagnostics.difficulty import NoCorrelation
from bench.measure.diagnostics.frames import Frame
from bench.measure.inputs import Inputs
from bench.types import Batch, Extras

FLOPS = np.array([40, 10, 30, 20])  # of samples 3, 0, 2, 1: the order of the inputs


class Mixture:
    """Four samples numbered by their inputs: two of task 0, then two of task 1."""

    def __init__(self, tasks: list[int] | None) -> None:
        self.tasks = tasks

    @property
    def extras(self) -> Extras:
        return Extras(attributes=self.attributes, task_names=("pictures", "sounds"))

    def attributes(self, split: str) -> dict[str, Tensor]:
        return {} if self.tasks is None else {"task": torch.tensor(self.tasks)}

    def num_samples(self, split: str) -> int:
        return 4

    def batches(self, split: str, batch_size: int, *, seed: int | None = None):
        yield Batch(torch.arange(4.0)[:, None], torch.zeros(4).long())


@pytest.fixture
def inputs() -> Inputs:
    """Samples 3, 0, 2, 1 alone, and in two pairs."""
    whole = next(iter(Mixture(None).batches("test", 4)))
    alone = [whole.select(torch.tensor([i])) for i in (3, 0, 2, 1)]
    return Inputs({1: alone, 2: [whole.select(torch.tensor(pair)) for pair in ([0, 3], [2, 1])]})


def gate(run: list) -> Frame:
    """A gate's choices for samples 0, 3, 2, 1: the order of the pairs."""
    chosen = torch.tensor(run).bool()
    real = torch.ones(len(chosen), dtype=torch.bool)
    return Frame("gate", chosen, chosen.float(), has_units=chosen.dim() > 1, real=real)


def test_experts_are_counted_by_task(inputs: Inputs) -> None:
    """Samples 0 and 1 go to expert 0; 2 and 3 to experts 1 and 2: (30 + 40) / 2 FLOPs each."""
    frame = gate([[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    pictures, sounds = measure_by_task(Mixture([0, 0, 1, 1]), inputs, [frame], FLOPS)
    assert (pictures["task"], pictures["num_samples"]) == ("pictures", 2)
    assert (pictures["flops_per_sample"], sounds["flops_per_sample"]) == (15.0, 35.0)
    assert pictures["gates"][0]["load"] == [1.0, 0.0, 0.0]
    assert sounds["gates"][0]["load"] == [0.0, 0.5, 0.5]


def test_a_gate_without_groups_has_its_share_by_task(inputs: Inputs) -> None:
    """It runs for samples 0 and 3, that is for half of each task; an unnamed task has a number."""
    both = measure_by_task(Mixture([0, 0, 2, 2]), inputs, [gate([1, 1, 0, 0])], FLOPS)
    assert [each["task"] for each in both] == ["pictures", "task 2"]
    assert [each["gates"][0]["executed_share"] for each in both] == [0.5, 0.5]
    assert both[0]["gates"][0]["load"] is None


def test_a_gate_that_a_batch_never_reached_is_null(inputs: Inputs) -> None:
    """With decisions for two of four samples nobody knows whose they are."""
    first, _ = measure_by_task(Mixture([0, 0, 1, 1]), inputs, [gate([1, 0])], FLOPS)
    assert first["gates"] == [{"name": "gate", "executed_share": None, "load": None}]


def test_data_of_one_task_say_so(inputs: Inputs) -> None:
    """Without the attribute there is nothing to tell apart."""
    with pytest.raises(NoCorrelation, match="of one task"):
        measure_by_task(Mixture(None), inputs, [], FLOPS)
