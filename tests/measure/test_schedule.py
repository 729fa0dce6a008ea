"""The table of meters: what runs when, at which operating points, and what a new row needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.config import MeasureConfig
from bench.measure import run as running
from bench.measure import schedule
from bench.measure.findings import Part
from bench.measure.metrics import number
from bench.measure.run import Meter, Run, Stage
from bench.measure.schedule import EACH_POINT, ONCE, SCHEDULE, at_default, if_timed
from bench.measure.subject import Subject
from bench.records.catalogue import COUNT, PARAMS
from bench.records.entry import Entry
from bench.records.record import missing
from bench.types import Batch, Output
from tests.fakes.methods import method_of


class Task:
    """Four samples of two numbers."""

    def num_samples(self, split: str) -> int:
        return 4

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        samples = Batch(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
        return iter([samples.select(torch.arange(batch_size))])


class Adjustable(nn.Module):
    """A model with a setting."""

    k = 3

    def forward(self, batch: Batch) -> Output:
        out: Tensor = batch.inputs
        return Output(out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over the points k = 3 (the default), 2 and 1, without a child process."""
    monkeypatch.setattr(running, "Resident", lambda subject, inputs: None)
    return Run(_subject(), lambda phase, share: None, {}, None)


def _subject(**settings: Any) -> Subject:
    return Subject(
        model=Adjustable(),
        method=method_of(
            points=lambda: [{"k": k} for k in (3, 2, 1)],
            set_point=lambda model, point: setattr(model, "k", point["k"]),
        ),
        task=Task(),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(processes=1, num_inputs=4, batch_sizes=[1, 2], **settings),
        make_baseline=nn.Module,
        is_dense=False,
    )


def note_k(found: list[int]) -> Meter:
    """A meter that notes the model's setting."""
    return Meter(lambda run: found.append(run.subject.model.k) or Part())  # type: ignore[func-returns-value]


def test_a_stage_goes_through_the_operating_points(run: Run) -> None:
    """Each point is set while its meters run, and the default is set afterwards."""
    seen: list[int] = []
    Stage(EACH_POINT, [note_k(seen), note_k(seen)]).run(run)
    assert seen == [3, 3, 2, 2, 1, 1]
    assert run.subject.model.k == 3


def test_a_stage_that_runs_once_runs_at_the_default_point(run: Run) -> None:
    """Its metrics are those of the trial, not of a point."""
    seen: list[int] = []
    Stage(ONCE, [note_k(seen), Meter(lambda run: number(PARAMS, 7))]).run(run)
    assert seen == [3]
    assert run.findings.metrics["model/params"].shown == 7
    assert [point.metrics for point in run.findings.points] == [{}, {}, {}]


def test_points_that_are_left_out_have_a_reason(run: Run) -> None:
    """`otherwise` gives the missing metric; the phase is reported where the meter runs."""
    phases: list[tuple[str, float]] = []
    run.on_phase = lambda phase, share: phases.append((phase, share))
    reason = Part({"infer/x": missing("1", "the default only")})
    meter = Meter(
        lambda run: number(PARAMS, run.number), "time", at_default, otherwise=lambda run: reason
    )
    Stage(EACH_POINT, [meter]).run(run)
    default, *others = (point.metrics for point in run.findings.points)
    assert default["model/params"].shown == 0
    assert [point["infer/x"].reason for point in others] == ["the default only"] * 2
    assert phases == [("time", 0.0)]


@pytest.mark.parametrize(("all_points", "timed"), [(False, [3]), (True, [3, 2, 1])])
def test_which_points_are_timed_is_configured(
    monkeypatch: pytest.MonkeyPatch, all_points: bool, timed: list[int]
) -> None:
    """The default point, with measure.all_points all of them."""
    monkeypatch.setattr(running, "Resident", lambda subject, inputs: None)
    run = Run(_subject(all_points=all_points), lambda phase, share: None, {}, None)
    seen: list[int] = []
    meter = note_k(seen)
    Stage(EACH_POINT, [Meter(meter.measure, when=if_timed)]).run(run)
    assert seen == timed


def test_withholding_comes_after_the_meters_of_a_point(run: Run) -> None:
    """`first` runs once and before; `then` at each point, with its metrics there."""
    order: list[str] = []
    Stage(
        EACH_POINT,
        [Meter(lambda run: order.append("meter") or Part())],  # type: ignore[func-returns-value]
        first=lambda run: order.append("first"),
        then=lambda run: order.append(f"then {run.number}"),
    ).run(run)
    assert order == ["first", "meter", "then 0", "meter", "then 1", "meter", "then 2"]


def test_a_new_meter_is_a_row_and_a_line_of_the_catalogue(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that measures one number, an entry, and a row: the findings hold it."""
    layers = Entry("model/layers", COUNT, "layers", over="the model", points="default")
    row = Meter(lambda run: number(layers, sum(1 for _ in run.subject.model.modules())))
    monkeypatch.setattr(schedule, "SCHEDULE", (Stage(ONCE, [row]),))
    found = schedule.measure(_subject(), lambda phase, share: None).metrics["model/layers"]
    assert (found.value, found.unit) == (1, "count")


def test_a_meter_that_needs_the_dense_model_fails_before_it_exists(run: Run) -> None:
    """The order of the table cannot be changed in silence."""
    with pytest.raises(AttributeError, match="baseline"):
        Stage(ONCE, [Meter(lambda run: number(PARAMS, id(run.baseline)))]).run(run)


def test_the_dense_model_is_built_by_the_third_stage() -> None:
    """After quality and memory, before FLOPs, time and energy; phases are in this order."""
    builds = [stage.first.__name__ == "add_dense_model" for stage in SCHEDULE]
    assert builds.index(True) == 2
    phases = [meter.phase for stage in SCHEDULE for meter in stage.meters if meter.phase]
    assert phases == ["evaluate", "memory", "flops", "time", "energy"]
