"""The one reader: which files are records, what is left out and why, which rounds count."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.records.reading import NoRecords, read, read_one, read_rounds
from bench.records.record import BadRecord

LABELS = {
    "experiment": "demo",
    "hardware": "cpu",
    "task": "digits",
    "backbone": "transformer",
    "method": "moe",
    "seed": 0,
}
IDENTITY = {"config": {}, "versions": {"torch": "2.13.0"}, "hardware": "cpu", "data": "d"}
VALID: dict[str, Any] = {
    "key": "k",
    "status": "ok",
    "schema_version": 1,
    "labels": LABELS,
    "config": {},
    "provenance": {"identity": IDENTITY},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write("a", status="failed"): a valid record in tmp_path/a with these fields; its path."""

    def make(name: str, **fields: Any) -> Path:
        path = tmp_path / name / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(VALID | fields))
        return path

    return make


def test_damaged_and_foreign_files_are_named_and_left_in_place(write, tmp_path):
    """Half a record and JSON of another program each give one problem; the good one is read."""
    write("good")
    for name, text in (("half", '{"key": "a'), ("foreign", '{"accuracy": 1}')):
        write(name).write_text(text)
    reading = read([tmp_path])
    assert [found.folder.name for found in reading.found] == ["good"]
    assert len(reading.problems) == 2
    assert all(any(name in p for p in reading.problems) for name in ("half", "foreign"))
    assert (tmp_path / "half" / "record.json").read_text() == '{"key": "a'


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"provenance": {}}, "provenance.identity is missing"),
        ({"provenance": {"identity": [1]}}, "provenance.identity: Input should be"),
        (
            {"provenance": {"identity": IDENTITY | {"versions": {"torch": 2}}}},
            "provenance.identity.versions.torch: Input should be",
        ),
        ({"environment": {"num_cores": "8"}}, "environment.num_cores: Input should be"),
        ({"environment": {"gpus": ["H200"]}}, "environment.gpus.0: Input should be"),
        ({"config": {"measure": 3}}, "config.measure: Input should be"),
        ({"config": {"measure": {"batch_sizes": [0]}}}, "config.measure.batch_sizes=0: must"),
        ({"labels": LABELS | {"device": "fake"}}, "measured with a fake device"),
        ({"diagnostics": {"energy": [{"device": "fake"}]}}, "measured with a fake device"),
    ],
)
def test_what_cannot_be_compared_is_left_out(write, tmp_path, fields, words):
    """Without identity or environment, or from a fake device: one sentence with file and place."""
    path = write("bad", **fields)
    write("good")
    reading = read([tmp_path])
    assert [found.folder.name for found in reading.found] == ["good"]
    (problem,) = reading.problems
    assert problem.startswith(f"{path}: {words}")
    with pytest.raises(BadRecord) as caught:
        read_one(path)
    assert str(caught.value) == problem


def test_a_missing_folder_is_an_error(tmp_path: Path):
    """The message names the folder."""
    with pytest.raises(NoRecords, match="nowhere: no such folder"):
        read([tmp_path / "nowhere"])


def test_a_folder_without_a_readable_record_is_an_error(tmp_path: Path):
    """The message names the folder and every file that was left out."""
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(NoRecords, match=r"no readable record below[^$]*not a condbench"):
        read([tmp_path])


def test_overlapping_folders_give_each_record_once(write, tmp_path):
    """A tree and a part of it hold one record, not two."""
    write("demo/moe")
    assert len(read([tmp_path, tmp_path / "demo", tmp_path]).found) == 1


@pytest.mark.parametrize(("started", "read_as"), [(5.0, 5.0), (None, 7.0)])
def test_a_trial_starts_when_its_record_states_or_its_file_was_written(write, started, read_as):
    """Without a start the time of the file counts, 7 s."""
    path = write("a", provenance={"identity": IDENTITY, "started_unix_s": started})
    os.utime(path, (7.0, 7.0))
    assert read_one(path).started_unix_s == read_as


def test_batch_sizes_are_those_of_the_configuration(write):
    """[1, 64] where the record names them, none where it names nothing."""
    sizes = read_one(write("a", config={"measure": {"batch_sizes": [1, 64]}})).batch_sizes
    assert sizes == [1, 64]
    assert read_one(write("b")).batch_sizes == []


ROUNDS = {"candidate_s_b64_point0": np.array([2.0, 3.0]), "baseline_s_b64_point0": np.ones(2)}


def test_rounds_are_read_per_batch_size(write):
    """Two rounds at 64 of method and dense; none at a size that was not timed, none at all."""
    found = read_one(write("a"))
    assert read_rounds(found, 64) is None
    np.savez(found.folder / "raw.npz", **ROUNDS)
    method, dense, process = read_rounds(found, 64)
    assert (method.tolist(), dense.tolist()) == ([2.0, 3.0], [1.0, 1.0])
    assert process.tolist() == [0, 0]  # as before ratios came from several processes
    np.savez(found.folder / "raw.npz", **ROUNDS, process_b64_point0=[0, 1])
    assert read_rounds(found, 64).process.tolist() == [0, 1]
    assert read_rounds(found, 1) is None


def test_rounds_that_do_not_count_are_left_out(write):
    """A round in which the GPU slowed down is recorded with its reason and not compared."""
    found = read_one(write("a"))
    np.savez(found.folder / "raw.npz", **ROUNDS, reason_b64_point0=["", "HwThermalSlowdown"])
    method, dense, _ = read_rounds(found, 64)
    assert (method.tolist(), dense.tolist()) == ([2.0], [1.0])
    np.savez(found.folder / "raw.npz", **ROUNDS, reason_b64_point0=["SwPowerCap"] * 2)
    assert read_rounds(found, 64) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline_s_b64_point0": np.ones(3)}, r"damaged \(rounds of shapes"),
        ({"reason_b64_point0": [""]}, r"damaged \(rounds of shapes"),
        ({"candidate_s_b64_point0": np.array([1.0, np.nan])}, "not a positive finite number"),
        ({"candidate_s_b64_point0": np.array([1.0, 0.0])}, "not a positive finite number"),
        ({"candidate_s_b64_point0": np.array(["1", "2"])}, "damaged"),
    ],
)
def test_damaged_rounds_are_an_error(write, change, words):
    """Other lengths, no time, text or half a file: the message names raw.npz."""
    found = read_one(write("a"))
    np.savez(found.folder / "raw.npz", **(ROUNDS | change))
    with pytest.raises(BadRecord, match=rf"raw\.npz: .*{words}"):
        read_rounds(found, 64)
    (found.folder / "raw.npz").write_bytes(b"PK cut off")
    with pytest.raises(BadRecord, match=r"raw\.npz: damaged"):
        read_rounds(found, 64)


broken_text = st.one_of(
    st.binary(max_size=60),
    st.integers(0, len(json.dumps(VALID))).map(lambda n: json.dumps(VALID)[:n].encode()),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ).map(lambda value: json.dumps(VALID | {"metrics": {"m": value}}).encode()),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"schema_version": 1' + b"0" * 5000 + b"}",
            json.dumps(VALID).replace('"config": {}', '"config": {}, "x": 1').encode(),
            json.dumps(VALID | {"metrics": {"m": {"value": 10**400, "unit": "1"}}}).encode(),
        ]
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken_text)
def test_no_file_stops_the_reading(tmp_path_factory, content: bytes):
    """Any bytes in record.json end as a record or as a named problem, never as another error."""
    root = tmp_path_factory.mktemp("any")
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / "record.json").write_bytes(content)
    (root / "b" / "record.json").write_text(json.dumps(VALID))
    reading = read([root])
    assert len(reading.found) + len(reading.problems) == 2
    assert all(str(root / "a") in problem for problem in reading.problems)
