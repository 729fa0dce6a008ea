"""How the table of meters is run: stages, operating points, phases, and what comes after."""

from __future__ import annotations

import pytest

from bench.measure.findings import Part
from bench.measure.metrics import number
from bench.measure.run import Meter, Run, Stage
from bench.measure.schedule import EACH_POINT, ONCE, at_default
from bench.records.catalogue import PARAMS
from bench.records.record import missing


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


def test_a_meter_that_needs_the_dense_model_fails_before_it_exists(run: Run) -> None:
    """The order of the table cannot be changed in silence."""
    with pytest.raises(AttributeError, match="baseline"):
        Stage(ONCE, [Meter(lambda run: number(PARAMS, id(run.baseline)))]).run(run)
