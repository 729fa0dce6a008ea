"""How parts become findings: at an operating point, or once for the whole trial."""

from __future__ import annotations

import numpy as np

from bench.measure.findings import Findings, Part, merge
from bench.records.record import Metric, PointResult, QualityLabel

ONE = Metric(value=1, unit="1")
TWO = Metric(value=2, unit="1")
HIGHER, LOWER = QualityLabel(direction="higher"), QualityLabel(direction="lower")


def findings() -> Findings:
    """Of a trial with two operating points."""
    return Findings(points=[PointResult(settings={"k": k}, metrics={}) for k in (2, 1)])


def test_a_part_of_a_point_stays_with_its_point() -> None:
    """Its metrics join those of the point; raw vectors and diagnostics carry its number."""
    found = findings()
    for number, metric in enumerate((ONE, TWO)):
        part = Part({"infer/x": metric}, {"times": np.ones(3)}, {"timing": {"b1": number}})
        merge(found, part, number)
    assert found.metrics == {}
    assert [point.metrics["infer/x"] for point in found.points] == [ONE, TWO]
    assert list(found.raw) == ["times_point0", "times_point1"]
    assert found.diagnostics == {"timing": {"point0": {"b1": 0}, "point1": {"b1": 1}}}


def test_lists_among_diagnostics_grow_by_an_entry_per_point() -> None:
    """Energy lists one entry per point, in the order of the points."""
    found = findings()
    parts = [Part(diagnostics={"energy": [{"point": {"k": k}}]}) for k in (2, 1)]
    for number, part in enumerate(parts):
        merge(found, part, number)
    assert found.diagnostics["energy"] == [{"point": {"k": 2}}, {"point": {"k": 1}}]
    assert [len(part.diagnostics["energy"]) for part in parts] == [1, 1]  # parts do not change


def test_notes_and_quality_label_are_those_of_the_default_point() -> None:
    """The table shows the default point."""
    found = findings()
    merge(found, Part(notes=["at chance level"], quality=HIGHER), 0)
    merge(found, Part(notes=["of another point"], quality=LOWER), 1)
    merge(found, Part(), 0)
    assert (found.notes, found.quality) == (["at chance level"], HIGHER)


def test_a_part_of_the_whole_trial_joins_what_is_there() -> None:
    """An entry of the diagnostics may be completed by a later part; names are kept as they are."""
    found = findings()
    first = Part({"model/x": ONE}, {"counts": np.ones(2)}, {"flops": {"own": 1}}, ["first"])
    merge(found, first, None)
    merge(
        found, Part({"model/y": TWO}, {}, {"flops": {"excess": 2}, "time_s": 0.5}, ["last"]), None
    )
    assert found.metrics == {"model/x": ONE, "model/y": TWO}
    assert list(found.raw) == ["counts"]
    assert found.diagnostics == {"flops": {"own": 1, "excess": 2}, "time_s": 0.5}
    assert found.notes == ["first", "last"]
    assert first.diagnostics == {"flops": {"own": 1}}
