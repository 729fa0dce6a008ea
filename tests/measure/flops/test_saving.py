"""A saving is what is not computed: multiplying by zero is told from skipping."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench import routing
from bench.config import MeasureConfig
from bench.measure.flops.cost import DenseCost
from bench.measure.flops.saving import measure_saving
from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.types import Batch, Output
from tests.fakes.methods import method_of

DIM, NUM_SAMPLES = 8, 4
COST = 2 * DIM * DIM  # one Linear(8, 8) on one sample: 128 FLOPs


def announce(run: torch.Tensor) -> torch.Tensor:
    """What a gate on samples gets that wants `run` [B]."""
    return routing.decide(
        "gate", axes=routing.SAMPLES, probabilities=run.float(), run=run, cost=COST
    )


class Gated(nn.Module):
    """Two linear layers; a gate sends every second sample past the second one."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.always = nn.Linear(DIM, DIM, bias=False)
        self.sometimes = nn.Linear(DIM, DIM, bias=False)
        self.skips = skips

    def forward(self, batch: Batch) -> Output:
        x = self.always(batch.inputs)  # [B, D]
        wanted = torch.arange(len(x)) % 2 == 0
        run = announce(wanted)
        return Output(self._skipped(x, run) if self.skips else self._masked(x, run))

    def _skipped(self, x: Tensor, run: Tensor) -> Tensor:
        return x.index_put((run.nonzero()[:, 0],), self.sometimes(x[run]))

    def _masked(self, x: Tensor, run: Tensor) -> Tensor:
        return torch.where(run[:, None], self.sometimes(x), x)


class Closed(nn.Module):
    """A gate that refuses to be opened."""

    def forward(self, batch: Batch) -> Output:
        none = torch.zeros(len(batch), dtype=torch.bool)
        run = announce(none)
        if run.any():
            raise ValueError("no room for all")
        return Output(batch.inputs)


def savings(
    model: nn.Module, dense_flops: float = 2.0 * COST, doubt: str | None = None
) -> dict[str, float | str | None]:
    """Both savings of a model on four samples whose dense cost is two linear layers each."""
    inputs = torch.randn(NUM_SAMPLES, DIM, generator=torch.Generator().manual_seed(0))
    batch = Batch(inputs, torch.zeros(NUM_SAMPLES, dtype=torch.long))
    singles = [batch.select(torch.tensor([n])) for n in range(NUM_SAMPLES)]
    subject = Subject(
        model=model.eval(),
        method=method_of(),
        task=None,  # type: ignore[arg-type]  # no part of this meter
        device=torch.device("cpu"),
        config=MeasureConfig(),
        make_baseline=nn.Module,
        is_dense=False,
    )
    dense = DenseCost({NUM_SAMPLES: dense_flops, 1: dense_flops}, doubt)
    found = measure_saving(subject, Inputs({1: singles, NUM_SAMPLES: [batch]}), dense).metrics
    return {key.partition("/")[2]: m.reason or m.value for key, m in found.items()}


BOTH = ("declared_saving", "executed_saving")


def both(found: dict[str, float | str | None]) -> dict[str, float | str | None]:
    """The two savings alone."""
    return {key: found[key] for key in BOTH}


def test_what_closed_gates_leave_is_told():
    """Skipping leaves one of two layers, masking both, and a gate's own work is left out."""
    assert savings(Gated(skips=True))["flops_share_closed"] == 0.5
    assert savings(Gated(skips=False))["flops_share_closed"] == 1.0

    class Asking(Gated):
        def forward(self, batch: Batch) -> Output:
            with routing.region("router"):
                self.always(batch.inputs)
            return super().forward(batch)

    assert savings(Asking(skips=True))["flops_share_closed"] == 0.5


def test_gates_that_cannot_be_closed_say_so():
    """The least share is missing with the cause; the savings are there."""

    class Open(Gated):
        def _skipped(self, x: Tensor, run: Tensor) -> Tensor:
            if not run.any():
                raise ValueError("nobody left")
            return super()._skipped(x, run)

    found = savings(Open(skips=True))
    assert found["flops_share_closed"] == "the gates cannot be closed: ValueError: nobody left"
    assert found["executed_saving"] == 0.25


def test_skipping_executes_what_it_declares():
    """Two of four samples skip half of the dense work: a quarter, declared and executed."""
    assert both(savings(Gated(skips=True))) == {"declared_saving": 0.25, "executed_saving": 0.25}


def test_masking_declares_and_executes_nothing():
    """The same decisions, multiplied instead of skipped: a quarter declared, none executed."""
    found = savings(Gated(skips=False))
    assert found["declared_saving"] == 0.25
    assert found["executed_saving"] == pytest.approx(0.0)


def test_a_model_without_gates_declares_nothing():
    """Dense models have no saving, and say why."""

    class Dense(nn.Module):
        def forward(self, batch: Batch) -> Output:
            return Output(batch.inputs)

    assert savings(Dense())["declared_saving"] == "the method announced no decision"


def test_gates_that_cannot_be_opened_are_no_accusation():
    """Where open gates fail, both savings are missing with the cause."""
    reason = "the gates cannot be opened: ValueError: no room for all"
    assert set(savings(Closed()).values()) == {reason}


def test_savings_are_no_surer_than_the_counts_behind_them():
    """An incomplete count of the dense model or of the method leaves both savings in doubt."""

    class Spectral(Gated):
        def forward(self, batch: Batch) -> Output:
            return Output(torch.fft.rfft(super().forward(batch).logits).real)

    assert set(savings(Gated(skips=True), doubt="unsure").values()) == {"unsure"}
    assert "aten::_fft" in savings(Spectral(skips=True))["executed_saving"]


def test_a_dense_model_without_flops_has_no_share_to_save():
    """Nothing is divided by zero."""
    reason = "the dense model executed no FLOPs"
    assert set(savings(Gated(skips=True), dense_flops=0.0).values()) == {reason}
