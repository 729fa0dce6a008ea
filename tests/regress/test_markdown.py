"""The body of a verdict: what changed, by how much, why, and how to reproduce it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench.regress.gate import TIME
from bench.regress.markdown import body, percent_change
from bench.regress.verdict import Row, Verdict
from bench.statistics import Interval


def row(judgement: str, **more) -> Row:
    ratio = Interval(1.079, 1.071, 1.086, 30, "bootstrap")
    return Row("digits/moe", "time b64", judgement, TIME, ratio, unit="s", **more)


def test_a_regression_is_reported_in_full() -> None:
    """Ratio, interval, both values, cause, error and command are in the body."""
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[x](http://a)", "\\[x\\](http:\u200b//a)"),
        ("[x](javascript:alert(1))", "\\[x\\](javascript:\u200balert(1))"),
        ("\x1b[3m www.a.b\u202e", "\\[3m www\u200b.a.b"),
        ("![x](http://a/b.png)", "\\!\\[x\\](http:\u200b//a/b.png)"),
        ("@octocat and #12", "@\u200boctocat and #\u200b12"),
        ("a\\|b", "a\\\\\\|b"),
    ],
)
def test_foreign_text_has_no_links_and_no_mentions(text, shown) -> None:
    """Links, pictures, names and issue numbers from a record are plain text, in cells and notes."""
    verdict = Verdict("A", "B", "cpu", rows=[row("regressed", reason=text)], notes=[text])
    markdown = body(verdict)
    assert f"({shown})" in markdown
    assert f"- {shown}\n" in markdown
    units = body(
        Verdict(
            "A",
            "B",
            "cpu",
            rows=[replace(row("regressed"), unit=text, baseline=1.0, candidate=1.0)],
        )
    )
    assert f"1.00 {shown})" in units


def test_a_command_cannot_leave_its_fence() -> None:
    """A new line in a folder's name does not end the block of code."""
    verdict = Verdict("A", "B", "cpu", commands=["condbench compare 'a\n```\n# hello' b"])
    assert body(verdict).endswith("```sh\ncondbench compare 'a ``` # hello' b\n```\n")


def test_not_comparable_lists_why() -> None:
    """What differs is listed, and nothing is concluded."""
    text = body(Verdict("A", "B", "cpu", differences=["hardware a -> b"]))
    assert text.startswith("## not comparable")
    assert "- hardware a -> b" in text


def test_an_unknown_interval_is_left_out() -> None:
    """A ratio without bounds shows no brackets."""
    assert percent_change(Interval(1.5, None, None, 1, "none")) == "+50.0 %"


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


CONTROL = row("equal")


def test_a_void_night_beats_a_regression_of_time() -> None:
    """A control that is not equal voids what a busy machine can change."""
    control = row("inconclusive")
    assert Verdict("A", "B", "cpu", rows=[row("regressed")], controls=[control]).outcome == "void"


@pytest.mark.parametrize("metric", ["trial", "quality"])
def test_a_crash_needs_no_quiet_machine(metric) -> None:
    """A failed trial, or a lost quality, is regressed even beside a control that differs; the body
    states that times do not count."""
    rows = [replace(row("regressed"), metric=metric), row("equal")]
    verdict = Verdict("A", "B", "cpu", rows=rows, controls=[row("inconclusive")])
    assert (verdict.outcome, verdict.exit_code) == ("regressed", 1)
    assert "the times and energy below do not count" in body(verdict)


def test_without_a_control_nothing_is_green() -> None:
    """Equal rows and no control at all: inconclusive."""
    assert Verdict("A", "B", "cpu", rows=[row("equal")]).exit_code == 3


def test_a_regression_beats_what_is_not_comparable() -> None:
    """A regression is reported even where other trials cannot be compared."""
    verdict = Verdict("A", "B", "cpu", rows=[row("regressed")], controls=[CONTROL])
    verdict.differences = ["x"]
    assert verdict.outcome == "regressed"


def test_a_canary_that_differs_voids_the_night() -> None:
    """The fixed workload slower in one process points to the machine; only noisy it does not."""
    green = Verdict("A", "B", "cpu", rows=[row("equal")], controls=[CONTROL])
    assert replace(green, canary=row("regressed")).outcome == "void"
    assert replace(green, canary=row("inconclusive")).outcome == "ok"
