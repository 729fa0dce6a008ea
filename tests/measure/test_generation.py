"""The workload `generate`: what a call is, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from bench.config import MeasureConfig
from bench.measure.generation import Generating, as_workload, refuse_unsupported
from bench.plugins.hooks import Flags
from bench.types import TaskSpec, Unsupported
from tests.fakes.generating import TEXT, Counter, batch_of, subject_with
from tests.fakes.methods import method_of

LABELS = TaskSpec("t", "tokens", (6,), 2, vocab_size=5)


def test_a_call_continues_the_first_half() -> None:
    """[0 1 2 | 3 4 5]: after 2 come as many tokens as the second half has."""
    assert Generating(Counter())(batch_of(2)).tolist() == [[3, 4, 5], [3, 4, 5]]
    assert Generating(Counter(), 1)(batch_of()).tolist() == [[3]]


def test_forward_stays_as_it_is() -> None:
    """Without the workload the subject is not touched."""
    subject = subject_with(nn.Identity(), workload="forward")
    assert as_workload(subject) is subject


def test_both_models_generate() -> None:
    """The method's model and the dense one are called alike, on a quarter of the inputs."""
    subject = as_workload(subject_with(Counter()))
    assert isinstance(subject.model, Generating)
    assert isinstance(subject.make_baseline(), Generating)
    assert subject.config.num_inputs == 16


def test_hooks_get_the_model_inside() -> None:
    """A method sets points and declares FLOPs on its own model, not on what is around it."""
    seen = []
    method = method_of(
        points=lambda: [{"k": 2}, {"k": 1}],
        set_point=lambda model, point: seen.append((model, point)),
        declared_flops=lambda model, observation: seen.append((model, observation)) or 0.0,
    )
    model = Counter()
    subject = as_workload(subject_with(model, method))
    with subject.at({"k": 1}):
        subject.method.hooks.declared_flops(subject.model, "decisions")
    assert seen == [(model, {"k": 1}), (model, "decisions"), (model, {"k": 2})]
    assert subject.method.hooks.loss is None


@pytest.mark.parametrize(
    ("spec", "method", "reason"),
    [
        (LABELS, Flags(), "language model"),
        (TEXT, Flags(batch_invariant=False), "other tokens of its pass"),
    ],
)
def test_refusals_come_before_training(spec: TaskSpec, method: Any, reason: str) -> None:
    """Tasks without a next token and methods whose tokens compete are unsupported."""
    with pytest.raises(Unsupported, match=reason):
        refuse_unsupported(MeasureConfig(workload="generate"), spec, method)
    refuse_unsupported(MeasureConfig(), spec, method)


def test_a_model_that_cannot_generate_is_refused() -> None:
    """The message names what is missing: `generate`."""
    with pytest.raises(Unsupported, match="no generate"):
        as_workload(subject_with(nn.Identity()))


def test_the_workload_is_one_of_two() -> None:
    """A misspelt workload is refused with the choices."""
    with pytest.raises(ValueError, match="'forward', 'generate'"):
        MeasureConfig(workload="decode")
