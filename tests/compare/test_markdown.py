"""The body of a night: what changed, by how much, why, and how to see it again."""

from __future__ import annotations

import json

from bench.compare.gate import TIME
from bench.compare.markdown import body, interval
from bench.compare.verdict import Row, Verdict
from bench.statistics import Interval


def row(said: str, **more) -> Row:
    ratio = Interval(1.079, 1.071, 1.086, 30, "bootstrap")
    return Row("digits/moe", "time b64", said, TIME, ratio, unit="s", **more)


def test_a_regression_is_told_whole() -> None:
    """By how much, its interval, both values, cause, error and command are in the body."""
    verdict = Verdict(
        "A",
        "B",
        "cpu",
        rows=[row("regressed", baseline=0.2, candidate=0.2158, cause="code: the work changed")],
    )
    verdict.commands = ["condbench compare --rev A B"]
    text = body(verdict)
    assert text.startswith("## regressed")
    assert "+7.9 % [+7.1, +8.6] (0.200 -> 0.216 s)" in text
    assert "code: the work changed (digits/moe time b64)" in text
    assert "at most 2.5 %" in text
    assert "condbench compare --rev A B" in text


def test_foreign_text_cannot_break_the_table() -> None:
    """Pipes, tags, backquotes and new lines from a record stay text in their cell."""
    verdict = Verdict("A", "B", "cpu", rows=[row("inconclusive", reason="a|b\n<img>`x`")])
    assert "a\\|b &lt;img>'x'" in body(verdict)


def test_not_comparable_says_why() -> None:
    """What differs is listed, and nothing is concluded."""
    text = body(Verdict("A", "B", "cpu", differences=["hardware a -> b"]))
    assert text.startswith("## not comparable")
    assert "- hardware a -> b" in text


def test_an_unknown_interval_is_left_out() -> None:
    """A ratio without bounds shows no brackets."""
    assert interval(Interval(1.5, None, None, 1, "none")) == "+50.0 %"


def test_the_verdict_is_json() -> None:
    """The JSON verdict holds outcome, exit code, error and every row; infinity becomes null."""
    wild = row("inconclusive", baseline=float("inf"))
    content = json.loads(
        json.dumps(Verdict("A", "B", "cpu", rows=[wild]).content(), allow_nan=False)
    )
    assert (content["outcome"], content["exit_code"]) == ("inconclusive", 3)
    assert content["rows"][0]["ratio"]["low"] == 1.071
    assert content["rows"][0]["baseline"] is None


def test_no_row_is_never_green() -> None:
    """A verdict over nothing is inconclusive."""
    assert Verdict("A", "B", "cpu").exit_code == 3


def test_a_void_night_beats_everything() -> None:
    """A control that is not equal voids regressions too."""
    control = row("inconclusive")
    assert Verdict("A", "B", "cpu", rows=[row("regressed")], controls=[control]).outcome == "void"


def test_a_regression_beats_what_is_not_comparable() -> None:
    """What regressed is said even where other trials cannot be compared."""
    verdict = Verdict("A", "B", "cpu", rows=[row("regressed")], differences=["x"])
    assert verdict.outcome == "regressed"


def test_a_canary_that_differs_voids_the_night() -> None:
    """The fixed workload slower in one process is the machine; that it is only noisy is not."""
    rows = [row("equal")]
    assert Verdict("A", "B", "cpu", rows=rows, canary=row("regressed")).outcome == "void"
    assert Verdict("A", "B", "cpu", rows=rows, canary=row("inconclusive")).outcome == "ok"
