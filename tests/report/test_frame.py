"""Every metric as one tidy frame: a row per record, operating point and metric."""

from __future__ import annotations

import math

from bench.records.record import Metric, missing
from bench.report.frame import FRAME_COLUMNS, frame


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


def test_frame_omits_invalid_numbers_and_keeps_failures(make, tree):
    """An invalid metric's number is NaN; a failed trial is one row with its reason."""
    doubtful = {"infer/quality": Metric(value=9.9, unit="1", valid=False, reason="above 1")}
    dead = make("dead", status="failed", reason="oom")
    table = frame([tree(make("moe", changed=doubtful), dead)])
    assert math.isnan(table[table.metric == "infer/quality"].iloc[0].value)
    lost = table[table.method == "dead"]
    assert len(lost) == 1
    assert lost.iloc[0].reason == "oom"


def test_a_fake_device_is_not_in_the_frame(make, tree):
    """Of a real and a fake record only the real one has rows."""
    root = tree(make("dense"), make("moe", labels={"device": "fake"}))
    assert set(frame([root]).method) == {"dense"}


def test_one_folder_may_be_given_as_text(make, tree):
    """As a notebook has it: a name, a Path, or several of either give the same rows."""
    folder = tree(make("moe", changed={"infer/quality": Metric(value=0.8, unit="accuracy")}))
    expected = frame([folder])
    for given in (folder, str(folder), [str(folder)]):
        assert frame(given).equals(expected)
