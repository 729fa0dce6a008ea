"""A model that costs less after timing than before was timed doing something else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.flops.cost import DenseCost, measure_cost
from bench.measure.flops.recount import invalidate, why_cost_changed
from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.records.record import Metric, missing
from bench.types import Batch, Output
from tests.fakes.methods import method_of

DIM = 8


class Tiring(nn.Module):
    """A linear layer that gives up after `num_calls` calls."""

    def __init__(self, num_calls: int) -> None:
        super().__init__()
        self.layer, self.left = nn.Linear(DIM, DIM, bias=False), num_calls

    def forward(self, batch: Batch) -> Output:
        self.left -= 1
        return Output(self.layer(batch.inputs) if self.left >= 0 else batch.inputs)


def reason(num_calls: int) -> str | None:
    """Why a recount differs for a layer that was counted first: 4 + 1 calls, 4 for declared."""
    batch = Batch(torch.ones(4, DIM), torch.zeros(4, dtype=torch.long))
    singles = [batch.select(torch.tensor([n])) for n in range(4)]
    inputs = Inputs({1: singles, 4: [batch]})
    subject = Subject(
        model=Tiring(num_calls),
        method=method_of(),
        task=None,  # type: ignore[arg-type]  # no part of this meter
        device=torch.device("cpu"),
        config=MeasureConfig(),
        make_baseline=nn.Module,
        is_dense=False,
    )
    metrics = dict(measure_cost(subject, inputs, DenseCost({1: 128.0, 4: 128.0})).metrics)
    return why_cost_changed(subject, inputs, metrics)


def test_a_model_that_keeps_working_is_valid() -> None:
    """9 calls are counted, 5 more recounted."""
    assert reason(14) is None


def test_a_model_that_gave_up_is_not() -> None:
    """Alone 2 x 8 x 8 = 128 FLOPs before, none afterwards; or only the batch, counted last."""
    assert "cost 128 FLOPs a sample in batches of 1 before they were timed and 0" in str(reason(9))
    assert "in batches of 4" in str(reason(13))


class Looking(nn.Module):
    """Looks batches up that it has met."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.met = nn.Linear(DIM, DIM, bias=False), {}

    def forward(self, batch: Batch) -> Output:
        key = tuple(batch.inputs.flatten().tolist())
        if key not in self.met:
            self.met[key] = self.layer(batch.inputs)
        return Output(self.met[key])


class Task:
    """Calibration samples that no test holds."""

    def batches(self, split: str, size: int) -> list[Batch]:
        assert split == "calibration"
        return [Batch(torch.arange(8.0 * DIM).view(8, DIM), torch.zeros(8).long())]


@pytest.mark.parametrize("calibrates", [False, True])
def test_new_inputs_show_a_model_that_only_remembers(calibrates: bool) -> None:
    """Met before it was first counted, a batch costs 0 FLOPs, always; a new one 128 a sample.

    Also where the model met all of the calibration split: mixtures of its samples are new.
    """
    batch = Batch(torch.ones(8, DIM), torch.zeros(8).long())
    inputs = Inputs({1: [batch.select(torch.tensor([0]))], 8: [batch]})
    for model, why in ((Looking(), "something remembers them"), (Tiring(99), None)):
        subject = Subject(
            model, method_of(), Task(), torch.device("cpu"), MeasureConfig(), nn.Module, False
        )
        for each in (*inputs.by_size[1], *inputs.by_size[8]):
            model(each)
        for each in Task().batches("calibration", 8) if calibrates else ():
            model(each)
        metrics = dict(measure_cost(subject, inputs, DenseCost({1: 128.0, 8: 128.0})).metrics)
        found = why_cost_changed(subject, inputs, metrics)
        assert (why in found) if why else found is None


def test_everything_of_inference_but_quality_is_void() -> None:
    """What training cost and how good the model is do not rest on timed calls."""
    metrics = {
        "infer/speedup_b1": Metric(value=2.0, unit="1"),
        "infer/quality": Metric(value=90.0, unit="%"),
        "train/time_s": Metric(value=1.0, unit="s"),
        "infer/energy_j_per_sample": missing("j", "no GPU"),
    }
    assert invalidate(metrics, None) == metrics
    found = invalidate(metrics, "it changed")
    assert {key: metric.reason for key, metric in found.items()} == {
        "infer/speedup_b1": "it changed",
        "infer/quality": None,
        "train/time_s": None,
        "infer/energy_j_per_sample": "no GPU",
    }
