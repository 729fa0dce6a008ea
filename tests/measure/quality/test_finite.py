"""Answers that are not finite: the quality of that operating point does not count, and says why."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.measure.points.against_dense import quality_vs_dense
from bench.measure.points.choice import loss_of
from bench.measure.quality.judge import evaluate, measure_quality
from bench.measure.quality.robustness import measure_robustness
from bench.measure.subject import Subject
from bench.records.record import Metric
from bench.regress.revisions.worker import _quality
from bench.tasks.parts.preloaded import iterate_batches
from bench.types import Batch, Output, Point, Quality, TaskSpec
from tests.fakes.adjustable import adjustable

NAN, INF = float("nan"), float("inf")


class Images:
    """Eight samples of class 1 and two of class 0, the class that an argmax over NaN gives."""

    spec = TaskSpec("t", "image", (1, 1, 2), 2)
    targets = torch.tensor([0, 0, 1, 1, 1, 1, 1, 1, 1, 1])

    def num_samples(self, split: str) -> int:
        return 10

    def batches(self, split: str, size: int, *, seed: int | None = None) -> Iterable[Batch]:
        images = torch.arange(20.0).view(10, 1, 1, 2)
        return iterate_batches(Batch(images, self.targets), size, seed=seed)

    def evaluate(self, model, batches: Iterable[Batch]) -> Quality:
        right = torch.cat([model(b).logits.argmax(-1) == b.targets for b in batches])
        scores = 100.0 * right.double()
        return Quality(
            float(scores.mean()),
            "accuracy %",
            "higher",
            per_sample=scores.tolist(),
            chance=50.0,
            more={"other": 1.0},
        )


class Faulty(nn.Module):
    """Class 1 with `value` as a logit of the samples whose number is below `k`."""

    k = 3

    def __init__(self, value: float | list[float]) -> None:
        super().__init__()
        self.value = torch.tensor(value)

    def forward(self, batch: Batch) -> Output:
        logits = torch.tensor([[-1.0, 1.0]]).repeat(len(batch), 1)
        wrong = batch.inputs[:, 0, 0, 0] < 2 * self.k  # sample i begins with the number 2 i
        return Output(torch.where(wrong[:, None], self.value, logits))


def _subject(model: nn.Module) -> Subject:
    return replace(adjustable(robustness=True), model=model, task=Images())  # type: ignore[arg-type]


def _quality_at(model: nn.Module, point: Point) -> Metric:
    return measure_quality(_subject(model), point).metrics["infer/quality"]


@pytest.mark.parametrize("value", [NAN, INF, [NAN, 1.0], [0.0, INF], [-INF, -INF]])
def test_logits_without_an_answer_make_the_quality_invalid(value) -> None:
    """3 of 10 samples: there is no accuracy, and the reason names the share."""
    part = measure_quality(_subject(Faulty(value)), {"k": 3})
    found = part.metrics["infer/quality"]
    assert found.shown is None
    assert "30 % of the inputs" in str(found.reason)
    assert part.metrics["infer/quality_other"].shown is None
    assert "quality" not in part.raw  # nothing to compare pairwise
    assert not part.notes  # no word on chance where there is no accuracy


def test_only_the_operating_point_with_such_logits_is_invalid() -> None:
    """k = 0 gives finite logits for all: 8 of 10 are of class 1."""
    model = Faulty(NAN)
    assert _quality_at(model, {"k": 10}).shown is None
    assert "100 %" in str(_quality_at(model, {"k": 10}).reason)
    assert _quality_at(model, {"k": 0}).shown == 80.0


def test_a_score_that_is_not_finite_itself_names_the_share_too() -> None:
    """A mean loss over NaN is NaN: missing, with how many inputs it comes from."""

    class Losses(Images):
        def evaluate(self, model, batches):
            logits = torch.cat([model(b).logits for b in batches])
            return Quality(float(logits.mean()), "1", "lower")

    subject = replace(_subject(Faulty(NAN)), task=Losses())  # type: ignore[arg-type]
    found = measure_quality(subject, {"k": 1}).metrics["infer/quality"]
    assert found.value is None
    assert "10 % of the inputs" in str(found.reason)


def test_one_faulty_input_among_very_many_is_not_zero_percent() -> None:
    """A share below a tenth of a percent is named as such."""
    model = Faulty(NAN)
    model.k = 1

    class Many(Images):
        targets = torch.ones(5000, dtype=torch.long)

        def batches(self, split, size, *, seed=None):
            images = torch.arange(10_000.0).view(5000, 1, 1, 2)
            return iterate_batches(Batch(images, self.targets), size, seed=seed)

    found = measure_quality(replace(_subject(model), task=Many()), {"k": 1})  # type: ignore[arg-type]
    assert "less than 0.1 % of the inputs" in str(found.metrics["infer/quality"].reason)


class Positions(nn.Module):
    """Logits [1, T, 2] of given values."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, batch: Batch) -> Output:
        return Output(self.logits)


@pytest.mark.parametrize(("faulty", "counts"), [(0, True), (1, False), (2, False)])
def test_positions_that_are_not_scored_may_hold_anything(faulty, counts) -> None:
    """Position 1 has no target, position 2 is padding; what stands at 0 is scored."""
    logits = torch.zeros(1, 3, 2)
    logits[0, faulty] = NAN
    batch = Batch(
        torch.zeros(1, 3, dtype=torch.long),
        torch.tensor([[1, -100, 1]]),
        mask=torch.tensor([[True, True, False]]),
    )

    class Tokens(Images):
        def batches(self, split, size, *, seed=None):
            return [batch]

        def evaluate(self, model, batches):
            assert all(len(model(b).logits) for b in batches)
            return Quality(50.0, "1", "lower")

    subject = replace(_subject(Positions(logits)), task=Tokens())  # type: ignore[arg-type]
    assert (measure_quality(subject, {"k": 3}).metrics["infer/quality"].shown is None) == counts


def test_a_class_that_is_masked_out_is_an_answer() -> None:
    """Minus infinity for some classes rules them out: softmax and argmax are defined."""
    assert _quality_at(Faulty([-INF, 0.0]), {"k": 10}).shown == 80.0


def test_harder_inputs_are_held_to_the_same() -> None:
    """Robustness: a method that breaks under a condition has no quality under it."""
    model = Faulty(NAN)
    model.k = 0
    broken = Faulty(NAN)
    broken.k = 10_000
    found = measure_robustness(_subject(model), broken).metrics
    assert found["infer/quality_clean"].shown == 80.0
    dense = found["infer/dense_quality_clean"]
    assert dense.shown is None
    assert "100 % of the inputs" in str(dense.reason)


def test_an_operating_point_is_not_chosen_by_such_a_quality() -> None:
    """Of k = 3 and 0 alone the second has a quality: its 80 % are those of dense."""
    subject = _subject(Faulty(NAN))
    found = [evaluate(subject, {"k": k}) for k in (3, 0)]
    losses = [loss_of(each, found[1]) for each in found]
    assert math.isnan(losses[0])
    assert losses[1] == 0.0
    versus = quality_vs_dense(found[1], found[0], None)  # a dense model without answers
    assert versus.shown is None


def test_revisions_compare_no_such_quality() -> None:
    """A revision whose logits are NaN has no quality to compare, as one whose score is."""
    assert _quality(_subject(Faulty(NAN)))["quality"] is None
