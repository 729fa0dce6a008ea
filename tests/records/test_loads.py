"""Loads of experts out of a record: for trials that draw experts with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.records.loads import recorded_loads
from bench.records.record import RECORD_NAME, Labels, Record, write_record

LABELS = Labels(
    experiment="e", hardware="h", task="t", backbone="b", method="moe", variant="", seed=0
)


def written(folder: Path, gates: Any) -> Path:
    """A folder with the record of a trial whose routing is `gates`."""
    diagnostics = {"routing": {"gates": gates}}
    write_record(
        folder, Record(key="k" * 64, status="ok", labels=LABELS, config={}, diagnostics=diagnostics)
    )
    return folder


def test_loads_are_read_by_gate(tmp_path: Path) -> None:
    """From the folder or the file; gates without a load are left out."""
    gates = [{"name": "moe.0", "load": [0.75, 0.25]}, {"name": "exit0", "load": None}]
    folder = written(tmp_path, gates)
    assert recorded_loads(str(folder)) == {"moe.0": [0.75, 0.25]}
    assert recorded_loads(str(folder / RECORD_NAME)) == {"moe.0": [0.75, 0.25]}


@pytest.mark.parametrize(
    "gates", [None, [], [{"name": "moe.0", "load": ["x"]}], [{"name": "m", "load": [0.0]}], "moe"]
)
def test_a_record_without_a_load_is_refused(tmp_path: Path, gates: Any) -> None:
    """Also one whose diagnostics have another form."""
    with pytest.raises(ValueError, match="the record holds no load of a gate"):
        recorded_loads(str(written(tmp_path, gates)))


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    """The sentence names the setting and the file."""
    (tmp_path / RECORD_NAME).write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"measure.routing_from: .*record.json"):
        recorded_loads(str(tmp_path))
