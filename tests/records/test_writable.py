"""A record is never lost over one field: what JSON cannot hold is missing, by name, and the rest
is kept."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from bench.records.record import Metric, PointResult, QualityLabel
from bench.records.writable import writable

SURROGATE = "caf\udce9"  # a byte that was no UTF-8, as Python reads it from a file name


def content(**changed: Any) -> dict[str, Any]:
    """What a trial gives its record, with some fields changed."""
    return {
        "status": "ok",
        "reason": None,
        "config": {"seed": 0},
        "metrics": {"infer/x": Metric(value=2.0, unit="ms")},
        "quality": QualityLabel(direction="higher"),
        "points": [PointResult(settings={"k": 1}, metrics={})],
        "diagnostics": {"routing": {"gates": [{"name": "moe", "entropy": 0.5}]}},
        "notes": ["at chance level"],
        **changed,
    }


def written(**changed: Any) -> dict[str, Any]:
    """The content as it stands in the file."""
    text = json.dumps(writable(content(**changed)), allow_nan=False, ensure_ascii=False)
    return json.loads(text.encode("utf-8"))


def test_long_texts_and_lists_are_cut_by_name() -> None:
    """A message of 50 MB, a million entries, 5,000 notes: bounded, with what was cut."""
    huge = "x" * 50_000_000
    found = written(
        reason=huge,
        diagnostics={huge: 1, "list": [0] * 1_000_000, "text": huge},
        metrics={"infer/x": Metric(value=None, unit="ms", valid=False, reason=huge)},
        notes=[huge] * 5000,
    )
    assert "49,996,000 characters cut" in found["reason"]
    assert "49,996,000 characters cut" in found["metrics"]["infer/x"]["reason"]
    assert found["diagnostics"]["list"] is None
    assert len(json.dumps(found)) < 5_000_000


def test_what_json_can_hold_stays_as_it_is() -> None:
    """Nothing is noted."""
    found = written()
    assert found["metrics"]["infer/x"]["value"] == 2.0
    assert found["diagnostics"] == content()["diagnostics"]
    assert found["notes"] == ["at chance level"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (torch.tensor(2), 2),
        ((1, 2), [1, 2]),
        ({"a": np.float16(1)}, {"a": 1.0}),
        ({3: "three"}, {"3": "three"}),
        (SURROGATE, "caf\\udce9"),
    ],
)
def test_foreign_scalars_and_texts_become_pythons(value: Any, kept: Any) -> None:
    """Numbers of numpy and torch are numbers, and a lone surrogate is escaped."""
    found = written(diagnostics={"entry": value})
    assert found["diagnostics"]["entry"] == kept
    assert type(found["diagnostics"]["entry"]) is type(kept)
    assert found["notes"] == ["at chance level"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (np.float32("nan"), "nan"),
        (object(), "object"),
        (np.ones(3), "ndarray"),
        ({1, 2}, "set"),
        (10**5000, "an integer of more than"),
    ],
    ids=["nan", "inf", "nan of numpy", "object", "array", "set", "long integer"],
)
def test_a_diagnostic_that_json_cannot_hold_is_null_and_named(value: Any, why: str) -> None:
    """Only that place; a note names it and what stood there."""
    gates = [{"name": "moe", "entropy": 0.5}, {"name": "moe", "entropy": value}]
    found = written(diagnostics={"routing": {"gates": gates}, "canary_s": 0.1})
    assert found["diagnostics"]["canary_s"] == 0.1
    assert found["diagnostics"]["routing"]["gates"][0]["entropy"] == 0.5
    assert found["diagnostics"]["routing"]["gates"][1] == {"name": "moe", "entropy": None}
    note = found["notes"][-1]
    assert note.startswith("left out of the record: diagnostics.routing.gates[1].entropy: ")
    assert why in note


def test_structures_without_end_are_cut_off() -> None:
    """One that contains itself, and one that is deeper than readers can follow."""
    circle: dict[str, Any] = {"name": "moe"}
    circle["inner"] = circle
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    found = written(diagnostics={"circle": circle, "deep": deep})
    assert found["diagnostics"]["circle"] == {"name": "moe", "inner": None}
    assert found["notes"][-2].endswith("circle.inner: a structure that contains itself")
    assert "nested more than 50 deep" in found["notes"][-1]


@pytest.mark.parametrize(
    "changes", [{"value": math.nan}, {"value": object()}, {"low": math.inf}, {"unit": 3}]
)
def test_a_metric_that_json_cannot_hold_is_missing_with_its_name(changes: dict[str, Any]) -> None:
    """Also where it was copied past the validation; other metrics stay."""
    broken = Metric(value=1.0, unit="ms").model_copy(update=changes)
    good = Metric(value=2.0, unit="ms")
    found = written(metrics={"infer/x": good, "infer/y": broken})["metrics"]
    assert found["infer/x"]["value"] == 2.0
    assert (found["infer/y"]["value"], found["infer/y"]["valid"]) == (None, False)
    assert found["infer/y"]["reason"].startswith("infer/y cannot be recorded: ")


def test_metrics_of_operating_points_are_treated_alike() -> None:
    """The point keeps its settings and its other metrics."""
    metrics = {
        "infer/x": Metric(value=1.0, unit="ms").model_copy(update={"value": math.inf}),
        "infer/y": Metric(value=2.0, unit="ms", reason=SURROGATE),
    }
    point = PointResult(settings={"k": 1}, metrics={})
    point.metrics |= metrics  # as meters do: without validation
    (found,) = written(points=[point])["points"]
    assert found["settings"] == {"k": 1}
    assert found["metrics"]["infer/x"]["value"] is None
    assert found["metrics"]["infer/y"]["reason"] == "caf\\udce9"


def test_a_quality_label_keeps_what_it_can() -> None:
    """A reference that is no number is left out by its name."""
    label = QualityLabel(direction="higher", references={"base": 80.0, "odd": math.nan})
    found = written(quality=label)
    assert found["quality"]["references"] == {"base": 80.0}
    assert found["notes"][-1] == "left out of the record: quality.references.odd: nan"


@pytest.mark.parametrize(("note", "kept"), [(SURROGATE, "caf\\udce9"), (7, "7")])
def test_notes_and_reasons_are_text_in_utf8(note: Any, kept: str) -> None:
    """Whatever a plugin calls itself."""
    found = written(notes=[note], reason=SURROGATE)
    assert found["notes"] == [kept]
    assert found["reason"] == "caf\\udce9"
