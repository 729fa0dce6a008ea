"""The history of nights and its trend: appended whole, read whole, drawn with verdicts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from bench.regress import history
from bench.regress.gate import TIME
from bench.regress.history import BadHistory
from bench.regress.trend import trend
from bench.regress.verdict import Row, Verdict
from bench.statistics import Interval


def verdict(ratio: float, judgement: str = "equal", canary_s: float = 0.003) -> Verdict:
    interval = Interval(ratio, ratio - 0.01, ratio + 0.01, 30, "bootstrap")
    row = Row(
        "digits/transformer/moe", "time b64", judgement, TIME, interval, unit="s", candidate=0.2
    )
    return Verdict("tag (aaa)", "HEAD (bbb)", "cpu-2x-test", rows=[row], canary_s=canary_s)


def test_nights_are_appended_to_the_file_of_their_hardware(tmp_path) -> None:
    """Two nights are two lines in <hardware>.jsonl, read back in order."""
    for number in (2, 1):
        path = history.append(tmp_path / "new" / "folder", verdict(1.0), 86400.0 * number)
    assert path.name == "cpu-2x-test.jsonl"
    (found,) = history.read(path)
    assert [night["unix_s"] for night in found.nights] == [86400.0, 172800.0]
    assert found.nights[0]["metrics"]["digits/transformer/moe time b64"]["ratio"] == 1.0


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path) -> None:
    """A crash in the middle of a line is reported; the nights before and after count."""
    path = history.append(tmp_path, verdict(1.0), 1.0)
    with path.open("a") as file:
        file.write('{"schema_version": 1, "unix_s"')
    history.append(tmp_path, verdict(1.0), 2.0)
    (found,) = history.read(tmp_path)
    assert len(found.nights) == 2
    assert len(found.problems) == 1
    assert ":2: not a night" in found.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        {"unix_s": "1.0"},
        {"unix_s": 1e300},
        {"unix_s": None},
        {"canary_s": "=1+1"},
        {"metrics": []},
        {"metrics": {"time": {"judgement": "equal"}}},
        {"outcome": None},
        {"schema_version": 2},
    ],
)
def test_a_damaged_night_is_reported_and_left_out(tmp_path, change) -> None:
    """A line of JSON that is not a night costs only itself: the trend of the others is drawn."""
    path = history.append(tmp_path, verdict(1.0), 1.0)
    night = {**json.loads(path.read_text()), **change}
    with path.open("a") as file:
        file.write(json.dumps(night) + "\n")
    (found,) = history.read(path)
    assert (len(found.nights), len(found.problems)) == (1, 1)
    assert "Left out" in trend(path)[0].read_text()


def test_only_a_line_feed_ends_a_night(tmp_path) -> None:
    """A name with a line separator of Unicode stays in its line."""
    odd = verdict(1.0)
    odd.candidate = "a\u2028b\x85c\x0cd"
    path = history.append(tmp_path, odd, 1.0)
    history.append(tmp_path, verdict(1.0), 2.0)
    (found,) = history.read(path)
    assert (len(found.nights), found.problems) == (2, [])
    assert found.nights[0]["candidate"] == odd.candidate


@pytest.mark.parametrize(("judgement", "kept"), [("equal", 1.01), ("regressed", 1.08)])
def test_the_ratio_in_the_history_is_the_one_that_counts(tmp_path, judgement, kept) -> None:
    """+8 % that the rerun corrected to +1 % is kept as +1 %; confirmed, as first measured."""
    night = verdict(1.08, judgement)
    night.rows = [replace(night.rows[0], rerun=Interval(1.01, 1.0, 1.02, 30, "bootstrap"))]
    path = history.append(tmp_path, night, 1.0)
    (metric,) = json.loads(path.read_text())["metrics"].values()
    low = {1.01: 1.0, 1.08: 1.07}[kept]
    assert (metric["ratio"], metric["low"]) == pytest.approx((kept, low))


def test_the_default_lies_outside_the_checkout(monkeypatch, tmp_path) -> None:
    """Runners clean their checkout: the history lies in the user's data folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history.default_folder() == tmp_path / "condbench" / "history"


def test_no_history_is_an_error(tmp_path) -> None:
    """A path without a file, and one without a readable night, have a message each."""
    with pytest.raises(BadHistory, match="no history"):
        history.read(tmp_path / "none")
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(BadHistory, match="no readable night"):
        history.read(tmp_path)


def test_the_canary_shows_whether_the_machine_changed(tmp_path) -> None:
    """Against the median of the last nights: 10 % is another machine, 1 % is not."""
    for number, canary_s in enumerate((0.003, 0.00301, 0.00299)):
        history.append(tmp_path, verdict(1.0, canary_s=canary_s), float(number))
    (same,) = history.machine_note(tmp_path, verdict(1.0, canary_s=0.00303))
    (moved,) = history.machine_note(tmp_path, verdict(1.0, canary_s=0.0033))
    assert "the machine is the same" in same
    assert "the machine changed" in moved
    assert list(history.machine_note(tmp_path / "first", verdict(1.0))) == []


def test_the_trend_is_a_page_a_figure_and_csv(tmp_path) -> None:
    """Three nights: one row each in the CSV, value and ratio per metric, verdicts on the page."""
    for number, (ratio, judgement) in enumerate(
        [(1.0, "equal"), (1.1, "regressed"), (1.0, "equal")]
    ):
        history.append(tmp_path, verdict(ratio, judgement), 86400.0 * number)
    page, figure, table = trend(tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["digits/transformer/moe time b64 ratio"] for row in rows] == ["1.0", "1.1", "1.0"]
    assert [row["digits/transformer/moe time b64"] for row in rows] == ["0.2"] * 3
    assert [row["time"][:10] for row in rows] == ["1970-01-01", "1970-01-02", "1970-01-03"]
    assert rows[0]["commit"] == "HEAD (bbb)"
    assert figure.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "digits/transformer/moe time b64: regressed" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_foreign_name_is_only_text(tmp_path) -> None:
    """A night whose commit is a tag or a formula shows as text on the page and in the CSV."""
    evil = verdict(1.0)
    evil.candidate = "=1+1<script>alert(1)</script>"
    path = history.append(tmp_path, evil, 1.0)
    path.write_text(path.read_text().replace('"outcome": "inconclusive"', '"outcome": "=2+2"'))
    page, _, table = trend(tmp_path)
    assert next(csv.DictReader(table.read_text().splitlines()))["outcome"] == "'=2+2"
    assert "<script>" not in page.read_text()
    assert next(csv.DictReader(table.read_text().splitlines()))["commit"].startswith("'=")


def test_a_metric_without_a_number_is_a_gap(tmp_path) -> None:
    """Inconclusive without a ratio: empty cells, and the figure is drawn."""
    night = verdict(1.0)
    night.rows.append(Row("digits/transformer/moe", "trial", "inconclusive", reason="gone"))
    path = history.append(tmp_path, night, 1.0)
    assert json.loads(path.read_text())["metrics"]["digits/transformer/moe trial"]["ratio"] is None
    assert [each.suffix for each in trend(path)] == [".html", ".png", ".csv"]
