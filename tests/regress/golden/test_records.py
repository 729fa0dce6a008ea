"""Golden records on disk: differences line by line, damaged files rejected."""

from __future__ import annotations

import numpy as np
import pytest

from bench.regress.golden.records import changes, read_decisions, read_golden, write_golden
from bench.regress.verdict import BadInput

CONTENT = {
    "torch": "2.13.0",
    "config": {"seed": 0, "method": {"top_k": 2}},
    "counts": {"params": 1290, "flops_b1": [100, 300], "routes_b1": {"moe.0": [[3, 8]]}},
}


def changed(**counts) -> dict:
    return {**CONTENT, "counts": {**CONTENT["counts"], **counts}}


def test_equal_counts_have_no_changes() -> None:
    """The same counts under the same configuration are no change."""
    assert list(changes(CONTENT, changed())) == []


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (changed(params=1291), "counts.params 1,290 -> 1,291"),
        (changed(flops_b1=[100, 301]), "counts.flops_b1 400 in 2 -> 401 in 2"),
        (changed(routes_b1={"moe.0": [[4, 8]]}), "counts.routes_b1.moe.0 [[3, 8]] -> [[4, 8]]"),
        (changed(routes_b1={}), "counts.routes_b1.moe.0 [[3, 8]] -> none"),
        ({**CONTENT, "config": {"seed": 0, "method": {"top_k": 1}}}, "config.method.top_k 2 -> 1"),
    ],
)
def test_every_difference_is_a_line(now, line) -> None:
    """A count, a route or a setting that differs is named with both values."""
    assert line in list(changes(CONTENT, now))


def test_equal_sums_do_not_hide_a_difference() -> None:
    """Lists are compared element by element, not by the sum that is shown."""
    assert len(list(changes(CONTENT, changed(flops_b1=[300, 100])))) == 1


def test_a_golden_record_comes_back_as_it_was(tmp_path) -> None:
    """Counts and decisions survive writing and reading; no decisions, no file."""
    decisions = {"b1/0/000/moe.0/run": np.array([[True, False]])}
    write_golden(tmp_path / "a" / "moe.json", CONTENT, decisions)
    assert read_golden(tmp_path / "a" / "moe.json")["counts"] == CONTENT["counts"]
    found = read_decisions(tmp_path / "a" / "moe.json")
    assert {name: values.tolist() for name, values in found.items()} == {
        "b1/0/000/moe.0/run": [[True, False]]
    }
    write_golden(tmp_path / "a" / "moe.json", CONTENT, {})
    assert read_decisions(tmp_path / "a" / "moe.json") == {}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": 2, "counts": {}, "torch": "", "config": {}}']
)
def test_a_damaged_golden_record_is_rejected(tmp_path, text) -> None:
    """A file that is not a golden record of this schema is bad input, with its name."""
    path = tmp_path / "moe.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"moe\.json"):
        read_golden(path)


def test_damaged_decisions_are_rejected(tmp_path) -> None:
    """A cut-off file of decisions is bad input."""
    (tmp_path / "moe.npz").write_bytes(b"PK cut off")
    with pytest.raises(BadInput, match=r"moe\.npz: damaged"):
        read_decisions(tmp_path / "moe.json")
