"""What stands between a model and deployment is recorded, not guessed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.diagnostics.deployability import measure_deployability
from bench.measure.inputs import Inputs
from bench.types import Batch, Output


class Straight(nn.Module):
    """One linear layer on [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, batch: Batch) -> Output:
        return Output(self.linear(batch.inputs))


class Branching(Straight):
    """A Python branch on a tensor's value."""

    def forward(self, batch: Batch) -> Output:
        x = batch.inputs * 2
        if x.sum() > 0:
            x = x + 1
        return Output(self.linear(x))


def found(model: nn.Module, profile: str = "standard") -> dict:
    batch = Batch(torch.ones(3, 4), torch.zeros(3).long())
    config = MeasureConfig(profile=profile)
    subject = SimpleNamespace(model=model.eval(), device=torch.device("cpu"), config=config)
    return measure_deployability(subject, Inputs({1: [batch], 3: [batch]}))


def test_a_plain_model_compiles_and_exports() -> None:
    """One graph without a break, the same answers from both."""
    entry = found(Straight())
    assert (entry["compile"]["num_graphs"], entry["compile"]["num_graph_breaks"]) == (1, 0)
    assert entry["compile"]["largest_difference_eager"] == 0
    assert entry["export"] == {"batch_size": 3, "largest_difference": 0}


def test_a_branch_on_data_breaks_the_graph_and_the_export(capsys: pytest.CaptureFixture) -> None:
    """The break has its reason, the export none but its error; nothing is printed."""
    entry = found(Branching())
    assert entry["compile"]["num_graph_breaks"] == 1
    assert entry["compile"]["break_reasons"]
    assert entry["export"] is None
    assert entry["export_reason"]
    assert capsys.readouterr() == ("", "")


def test_quick_leaves_compilers_out() -> None:
    """Null with the reason, the same fields."""
    entry, full = found(Straight(), "quick"), found(Straight())
    assert entry["compile"] is None
    assert entry["compile_reason"] == entry["export_reason"]
    assert "measure=quick" in entry["compile_reason"]
    assert set(full) <= set(entry)


def test_without_a_gpu_nothing_waits() -> None:
    """Host synchronisations are null on a CPU, not 0."""
    entry = found(Straight(), "quick")
    assert entry["host_syncs_per_forward"] is None
    assert "no GPU" in entry["host_syncs_per_forward_reason"]


@pytest.mark.gpu
def test_waits_for_the_gpu_are_counted() -> None:
    """A branch on a tensor waits once per pass, a plain layer never."""
    counts = []
    for model in (Straight(), Branching()):
        batch = Batch(torch.ones(3, 4, device="cuda"), torch.zeros(3, device="cuda").long())
        subject = SimpleNamespace(
            model=model.cuda().eval(), device=torch.device("cuda"), config=MeasureConfig()
        )
        entry = measure_deployability(subject, Inputs({1: [batch]}))
        counts.append(entry["host_syncs_per_forward"])
    assert counts == [0, 1]
