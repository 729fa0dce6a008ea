"""The table of meters: which points are timed, in which order, and what a new row needs."""

from __future__ import annotations

import pytest

from bench.measure import run as running
from bench.measure import schedule
from bench.measure.findings import Part
from bench.measure.metrics import number
from bench.measure.run import Meter, Run, Stage
from bench.measure.schedule import EACH_POINT, ONCE, SCHEDULE, if_timed
from bench.records.catalogue import COUNT
from bench.records.entry import Entry
from tests.fakes.adjustable import adjustable


@pytest.mark.parametrize(("all_points", "timed"), [(False, [3]), (True, [3, 2, 1])])
def test_which_points_are_timed_is_configured(
    monkeypatch: pytest.MonkeyPatch, all_points: bool, timed: list[int]
) -> None:
    """The default point, with measure.all_points all of them."""
    monkeypatch.setattr(running, "Resident", lambda subject, inputs: None)
    run = Run(adjustable(all_points=all_points), lambda phase, share: None, {}, None)
    seen: list[int] = []
    note = lambda run: seen.append(run.subject.model.k) or Part()  # noqa: E731
    Stage(EACH_POINT, [Meter(note, when=if_timed)]).run(run)
    assert seen == timed


def test_a_new_meter_is_a_row_and_a_line_of_the_catalogue(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that measures one number, an entry, and a row: the findings hold it."""
    layers = Entry("model/layers", COUNT, "layers", over="the model", points="default")
    row = Meter(lambda run: number(layers, sum(1 for _ in run.subject.model.modules())))
    monkeypatch.setattr(schedule, "SCHEDULE", (Stage(ONCE, [row]),))
    found = schedule.measure(adjustable(), lambda phase, share: None).metrics["model/layers"]
    assert (found.value, found.unit) == (1, "count")


def test_the_dense_model_is_built_by_the_third_stage() -> None:
    """After quality and memory, before FLOPs, time and energy; phases are in this order."""
    builds = [stage.first.__name__ == "add_dense_model" for stage in SCHEDULE]
    assert builds.index(True) == 2
    phases = [meter.phase for stage in SCHEDULE for meter in stage.meters if meter.phase]
    assert phases == ["evaluate", "memory", "flops", "time", "energy"]
