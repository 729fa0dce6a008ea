"""Records are read one by one: what is damaged is named, the rest is reported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.records.reading import FRAME_COLUMNS, NothingToReport, frame, read
from bench.records.record import Metric, missing

LABELS = {
    "experiment": "demo",
    "hardware": "cpu",
    "task": "digits",
    "backbone": "transformer",
    "method": "moe",
    "seed": 0,
}
VALID = {"key": "k", "status": "ok", "schema_version": 1, "labels": LABELS, "config": {}}


def test_damaged_and_foreign_files_are_named_and_left_in_place(make, tree):
    """Half a record and somebody else's JSON each give one problem; the good record is read."""
    root = tree(make("moe"))
    for name, text in (("half", '{"key": "a'), ("foreign", '{"accuracy": 1}')):
        (root / name).mkdir()
        (root / name / "record.json").write_text(text)
    reading = read([root])
    assert [found.record.labels.method for found in reading.found] == ["moe"]
    assert len(reading.problems) == 2
    assert all(any(name in p for p in reading.problems) for name in ("half", "foreign"))
    assert (root / "half" / "record.json").read_text() == '{"key": "a'


def test_a_fake_device_never_enters(make, tree):
    """What was measured with a fake device is named and neither tabulated nor in the frame."""
    root = tree(make("dense"), make("moe", labels={"device": "fake"}))
    reading = read([root])
    assert [found.record.labels.method for found in reading.found] == ["dense"]
    assert "fake device" in reading.problems[0]
    assert set(frame([root]).method) == {"dense"}


def test_a_missing_folder_is_refused(tmp_path: Path):
    """The message names the folder."""
    with pytest.raises(NothingToReport, match="nowhere: no such folder"):
        read([tmp_path / "nowhere"])


def test_a_folder_without_a_readable_record_is_refused(tmp_path: Path):
    """The message says where nothing was found and which files were no records."""
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(NothingToReport, match=r"no readable record below[^$]*not a condbench"):
        read([tmp_path])


def test_overlapping_folders_give_each_record_once(make, tree):
    """A tree and a part of it hold one record, not two."""
    root = tree(make("moe"))
    assert len(read([root, root / "demo", root]).found) == 1


def test_frame_has_one_row_per_record_point_and_metric(make, tree):
    """Three metrics at the default point and one at another make four rows in full detail."""
    quality = Metric(value=0.8, unit="accuracy")
    speed = Metric(value=1.5, unit="1", low=1.4, high=1.6)
    default = {"infer/quality": quality}
    record = make(
        "early_exit",
        points=[
            {"settings": {"threshold": 0.8}, "metrics": default},
            {"settings": {"threshold": 0.9, "k": 2}, "metrics": {"infer/speedup_b1": speed}},
        ],
    ).model_copy(update={"metrics": default | {"a": missing("j", "no GPU"), "b": quality}})
    table = frame([tree(record)])
    assert tuple(table.columns) == FRAME_COLUMNS
    assert len(table) == 4
    assert list(table.point) == ["threshold=0.8"] * 3 + ["threshold=0.9, k=2"]
    assert list(table.is_default) == [True] * 3 + [False]
    absent = table[table.metric == "a"].iloc[0]
    assert math.isnan(absent.value)
    assert absent.reason == "no GPU"
    timed = table[table.metric == "infer/speedup_b1"].iloc[0]
    assert (timed.value, timed.low, timed.high) == (1.5, 1.4, 1.6)
    assert (timed.profile, timed.seed, timed.status) == ("quick", 0, "ok")


def test_frame_hides_invalid_numbers_and_keeps_failures(make, tree):
    """An invalid metric's number is NaN; a failed trial is one row with its reason."""
    doubtful = {"infer/quality": Metric(value=9.9, unit="1", valid=False, reason="above 1")}
    dead = make("dead", status="failed", reason="oom")
    table = frame([tree(make("moe", changed=doubtful), dead)])
    assert math.isnan(table[table.metric == "infer/quality"].iloc[0].value)
    lost = table[table.method == "dead"]
    assert len(lost) == 1
    assert lost.iloc[0].reason == "oom"


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
