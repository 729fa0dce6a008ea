"""A record as a file: strict types, the notes that reports look for, and atomic writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.records.record import (
    DEPENDS_ON_BATCH,
    RECORD_NAME,
    UPPER_BOUND,
    BadRecord,
    Labels,
    Metric,
    Record,
    missing,
    read_record,
    read_state,
    write_json,
    write_record,
)

LABELS = Labels(
    experiment="e", hardware="h", task="t", backbone="b", method="m", variant="", seed=0
)


def record(**changed: Any) -> Record:
    """A finished record with some fields changed."""
    return Record.model_validate(
        {"key": "k" * 64, "status": "ok", "labels": LABELS, "config": {}, **changed}
    )


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(2.0), 2.0),
        (torch.tensor(1.5), 1.5),
        (torch.tensor(7), 7),
        (3, 3),
    ],
)
def test_numbers_of_numpy_and_torch_become_pythons(value: Any, kept: float) -> None:
    """Of a metric's value and its interval; whole numbers stay whole."""
    found = Metric(value=value, unit="1", low=value, high=value)
    assert (found.value, found.low, found.high) == (kept, kept, kept)
    assert type(found.value) is type(kept)
    assert type(found.model_dump()["value"]) is type(kept)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": "12"},
        {"value": True},
        {"value": np.bool_(True)},
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": None},
        {"value": 1.0, "valid": False},
        {"value": 1.0, "valid": 1},
        {"value": 1.0, "low": "0"},
        {"value": 1.0, "high": float("inf")},
        {"value": 1.0, "unit": 3},
        {"value": 1.0, "reason": 3},
        {"value": 1.0, "units": "ms"},
    ],
)
def test_a_metric_takes_nothing_for_a_number_that_is_none(fields: dict[str, Any]) -> None:
    """A text is no number, a bool neither; a missing or invalid value needs a reason."""
    with pytest.raises(ValidationError):
        Metric(**{"unit": "1", **fields})


def test_a_missing_metric_has_a_unit_and_a_reason() -> None:
    """Null, and never shown."""
    found = missing("j", "no NVIDIA GPU")
    assert (found.value, found.shown, found.unit, found.reason) == (
        None,
        None,
        "j",
        "no NVIDIA GPU",
    )


def test_notes_of_older_records_are_read_in_todays_words() -> None:
    """A report finds upper bounds and batch-dependent outputs by their note, of whatever age."""
    notes = [
        "sees the targets: a ceiling, no result",
        "a sample's result depends on its batch",
        "x",
    ]
    assert record(notes=notes).notes == [UPPER_BOUND, DEPENDS_ON_BATCH, "x"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Equal in every field; key and status are found without parsing the whole file."""
    written = record(metrics={"infer/x": Metric(value=1.5, unit="ms", low=1.0, high=2.0)})
    path = write_record(tmp_path, written)
    assert read_record(path) == written
    assert read_state(tmp_path) == ("k" * 64, "ok")
    assert [each.name for each in tmp_path.iterdir()] == [RECORD_NAME]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """No temporary file stays behind either."""
    path = write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


def test_a_record_that_is_not_ok_needs_a_reason() -> None:
    """Skipped and failed rows explain themselves."""
    with pytest.raises(ValidationError, match="a skipped record needs a reason"):
        record(status="skipped")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "not a condbench record"),
        ('{"schema_version": 2}', "schema version 2, this condbench reads 1"),
        ('{"schema_version": 1}', "key: Field required"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str, message: str) -> None:
    """One sentence with the file and what is wrong."""
    path = tmp_path / RECORD_NAME
    path.write_text(text)
    with pytest.raises(BadRecord) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
