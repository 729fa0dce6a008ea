"""A model is evaluated and measured without the targets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.config import MeasureConfig
from bench.measure.blind import Blind, method_notes
from bench.measure.inputs import choose_inputs
from bench.measure.quality.judge import evaluate
from bench.measure.subject import Subject
from bench.plugins.hooks import Flags, ResolvedMethod
from bench.records.record import DEPENDS_ON_BATCH, UPPER_BOUND
from bench.tasks.digits import Digits
from bench.types import Batch, Output
from tests.fakes.methods import method_of


class Peeking(nn.Module):
    """Answers with the target."""

    def forward(self, batch: Batch) -> Output:
        return Output(F.one_hot(batch.targets, 10).float())


CONTROL = method_of(reads_targets=True)


def subject(method: ResolvedMethod) -> Subject:
    return Subject(
        model=Peeking(),
        method=method,
        task=Digits(),
        device=torch.device("cpu"),
        config=MeasureConfig(),
        make_baseline=nn.Module,
        is_dense=False,
    )


def test_targets_do_not_reach_a_model_that_is_evaluated() -> None:
    """A model that answers with the target answers 0: right for the zeros among the digits."""
    targets = torch.cat([batch.targets for batch in Digits().batches("test", 500)])
    zeros = 100 * float((targets == 0).double().mean())
    assert evaluate(subject(method_of()), {}).value == pytest.approx(zeros)
    assert 5 < zeros < 15


def test_a_declared_control_sees_them() -> None:
    """Hindsight is right about everything, and is noted as an upper bound."""
    assert evaluate(subject(CONTROL), {}).value == 100
    assert method_notes(CONTROL.flags) == [UPPER_BOUND]


def test_meters_see_inputs_without_targets() -> None:
    """At every batch size; a control's keep theirs."""
    hidden = choose_inputs(Digits(), 8, [4], "cpu", blind=True).by_size
    assert not any(batch.targets.any() for batches in hidden.values() for batch in batches)
    kept = choose_inputs(Digits(), 8, [4], "cpu").by_size
    assert any(batch.targets.any() for batch in kept[4])
    assert torch.equal(hidden[4][0].inputs, kept[4][0].inputs)


def test_a_blind_model_is_the_model_otherwise() -> None:
    """A task may read its mode or its parameters."""
    model = nn.Linear(2, 2).eval()
    assert Blind(model).training is False
    assert next(Blind(model).parameters()) is model.weight


def test_what_a_method_declares_is_noted() -> None:
    """What is computed together, and that an output depends on the rest of its batch."""
    declared = Flags(batch_invariant=False, compaction="tokens are sorted")
    assert method_notes(declared) == [
        "in a batch, tokens are sorted",
        DEPENDS_ON_BATCH,
    ]
