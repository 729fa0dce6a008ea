"""Which operating points are measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.points.choice import Candidate, choose_points, pick, spread
from bench.measure.subject import Subject
from bench.types import Batch, Output, Quality
from tests.fakes.methods import method_of

DIM = 8


class Widths(nn.Module):
    """Executes 2 x width x DIM FLOPs per sample; its logits are the width."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM, DIM))

    def forward(self, batch: Batch) -> Output:
        used = batch.inputs @ self.weight[:, : self.width]
        return Output(torch.full((len(batch), 1), float(self.width)) + 0 * used[:, :1])


class Task:
    """Calibration data of 64 samples; quality in per cent by width."""

    quality = {8: 92.0, 7: 92.2, 6: 91.8, 5: 91.6, 4: 91.4, 3: 92.0, 2: 50.0, 1: 10.0}
    seen: list[int]

    def __init__(self) -> None:
        self.seen = []

    def num_samples(self, split: str) -> int:
        return 64

    def batches(self, split: str, batch_size: int) -> Iterator[Batch]:
        assert split == "calibration"  # the test set has no part in a choice
        yield Batch(torch.ones(64, DIM), torch.zeros(64))

    def evaluate(self, model: Any, batches: Any) -> Quality:
        width = int(model(next(iter(batches))).logits[0, 0])
        self.seen.append(width)
        return Quality(self.quality[width], "accuracy %", "higher")


def subject(**settings: Any) -> Subject:
    """Points of width 4 (the default), 8, 7, 6, 5, 3, 2 and 1."""
    return Subject(
        model=Widths(),
        method=method_of(
            points=lambda: [{"width": w} for w in (4, 8, 7, 6, 5, 3, 2, 1)],
            set_point=lambda model, point: setattr(model, "width", point["width"]),
        ),
        task=Task(),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(**settings),
        make_baseline=nn.Module,
        is_dense=False,
    )


DENSE = Quality(92.0, "accuracy %", "higher")


def test_the_last_point_before_the_loss_exceeds_half_of_the_tolerance() -> None:
    """Losses 0, -0.2, 0.2, 0.4, 0.6, 0: width 5 is chosen, although width 3 loses nothing."""
    measured = subject()
    found = choose_points(measured, DENSE)
    assert (found.kind, found.points[0], found.tolerance) == ("equal quality", {"width": 5}, 1.0)
    assert measured.task.seen == [8, 7, 6, 5, 4]  # type: ignore[attr-defined]
    # Five others over 2 x 8 x 1 to 2 x 8 x 8 FLOPs, in steps of 28: nearest to 16, 44, 72, 100, 128
    assert found.points[1:] == [{"width": w} for w in (8, 6, 4, 3, 1)]
    assert [each.flops for each in found.candidates] == [16.0 * w for w in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert [each.loss is None for each in found.candidates] == [False] * 5 + [True] * 3


@pytest.mark.parametrize(("tolerance", "width"), [(0.0, 7), (0.9, 5), (1.3, 3), (90.0, 2)])
def test_the_tolerance_is_configured(tolerance: float, width: int) -> None:
    """Half of it: at 90 points a loss of 42 is accepted, one of 82 is not."""
    found = choose_points(subject(tolerance=tolerance), DENSE)
    assert found.points[0] == {"width": width}


def test_dearer_points_that_lose_more_are_passed_over() -> None:
    """Losses 3, 0.2, 0.4, 9, 0: the third is the last before the loss exceeds 0.5 again."""
    losses = (3.0, 0.2, 0.4, 9.0, 0.0)
    tried = [Candidate({"k": 5 - i}, 5.0 - i, loss) for i, loss in enumerate(losses)]
    assert pick(tried, 1.0) == ("equal quality", tried[2])


def test_none_keeps_quality() -> None:
    """Against a dense model at 99 %: every point is tried, and the nearest stands first."""
    measured = subject(num_points=2)
    found = choose_points(measured, replace(DENSE, value=99.0))
    assert (found.kind, found.points) == ("nearest", [{"width": 7}, {"width": 1}])
    assert len(measured.task.seen) == 8  # type: ignore[attr-defined]


def test_dense_without_quality_leaves_the_order() -> None:
    """Untrained on random inputs: nothing to choose by, the method's default stays first."""
    found = choose_points(subject(num_points=2), replace(DENSE, value=math.nan))
    assert (found.kind, found.points) == ("default", [{"width": 4}, {"width": 8}])
    assert "no quality" in found.reason


def test_a_point_that_is_not_a_number_is_not_chosen() -> None:
    """NaN exceeds every tolerance, and is farther than any loss."""
    tried = [Candidate({"k": 2}, 2.0, math.nan), Candidate({"k": 1}, 1.0, 5.0)]
    assert pick(tried, 1.0) == ("nearest", tried[1])
    assert tried[0].entry()["loss"] is None


def test_of_very_many_points_a_spread_is_tried() -> None:
    """Of 1,000 points 24 are evaluated, the cheapest and the dearest among them."""
    many = subject()
    hooks = replace(
        many.method.hooks,
        points=lambda: [{"width": 1 + k % 8, "k": k} for k in range(1_000)],
    )
    many.method = replace(many.method, hooks=hooks)
    found = choose_points(many, replace(DENSE, value=99.0))
    assert len(many.task.seen) == len(found.candidates) == 8  # type: ignore[attr-defined]
    costs = [Candidate({"k": k}, float(k % 100)) for k in range(1_000)]
    assert len(spread(costs, 24)) == 24
    assert spread(costs, 24)[0] == {"k": 99}
    assert spread(costs, 24)[-1] == {"k": 0}


def test_equal_flops_count_once_where_there_are_too_many() -> None:
    """Three points cost the same: with two wanted, the first of them and the cheapest."""
    costs = (4.0, 4.0, 4.0, 1.0)
    found = [Candidate({"k": k}, flops) for k, flops in enumerate(costs)]
    assert spread(found, 2) == [{"k": 0}, {"k": 3}]
    assert len(spread(found, 4)) == 4
