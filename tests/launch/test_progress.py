"""The display: time left by hand-worked sums, plain lines, and the bar on a pretended terminal."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.console import Console

from bench.launch.progress import Bar, Forecast, Lines, duration, open_display


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds, text) -> None:
    """Durations are written in the unit that a person would choose."""
    assert duration(seconds) == text


def test_time_left_is_unknown_before_the_first() -> None:
    """Before a trial has run to its end nothing is said about the time left."""
    forecast = Forecast(Counter(digits=2))
    forecast.finished("digits", "failed", 3.0)
    assert forecast.left_s([("digits", 1.0)]) is None


def test_time_left_by_group() -> None:
    """Trials count what finished trials of their task took, others the mean of all."""
    forecast = Forecast(Counter(digits=3, text=3, speech=1))
    forecast.finished("digits", "ok", 10.0)
    forecast.finished("text", "ok", 30.0)
    forecast.finished("text", "ok", 50.0)
    # left: 2 digits of 10 s, 1 text of (30 + 50) / 2 = 40 s, 1 speech of (10 + 30 + 50) / 3 = 30 s
    assert forecast.left_s([]) == pytest.approx(2 * 10 + 40 + 30)
    # one digits trial has run for 4 s of its 10 s
    assert forecast.left_s([("digits", 4.0)]) == pytest.approx(86)
    # a trial longer than expected does not eat into the others' time; two run side by side
    assert forecast.left_s([("digits", 60.0), ("text", 0.0)]) == pytest.approx((90 - 10) / 2)


def test_only_whole_trials_teach() -> None:
    """Skipped, failed, interrupted trials and those of another launcher say nothing of time."""
    forecast = Forecast(Counter(digits=5))
    for status, took_s in (("skipped", 0.1), ("failed", 1.0), ("interrupted", 2.0), ("ok", 0.0)):
        forecast.finished("digits", status, took_s)
    assert forecast.left_s([]) is None
    assert forecast.left["digits"] == 1


def show(display) -> None:
    """A short run: one trial ok, one failed."""
    with display:
        display.begin(["digits", "digits"])
        display.started("digits/moe", "digits", "cpu")
        display.phase("digits/moe", "train", 0.25)
        display.finished("digits/moe", "digits", "ok", None, 12.3)
        display.started("digits/dense", "digits", "cpu")
        display.phase("digits/dense", "time", 0.0)
        display.finished("digits/dense", "digits", "failed", "killed by SIGKILL [9]", 3.0)
        display.say("over")


def test_a_reason_does_not_steer_the_terminal() -> None:
    """Escape sequences of a plugin's error come out as blanks, on a terminal and elsewhere."""
    evil = "\x1b]0;owned\x07 \x9b2J \x1b[31mred"
    for terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=150, color_system=None)
        with Bar(console) if terminal else Lines(stream) as display:
            display.begin(["digits"])
            display.finished("digits/moe", "digits", "failed", evil, 3.0)
            display.say(evil)
        shown = stream.getvalue()
        assert shown.count("owned") == 2
        assert not any(bad in shown for bad in ("\x1b]0;", "\x07", "\x9b", "\x1b[31m"))


def test_plain_lines() -> None:
    """Without a terminal each start and end is one line with outcome, duration and reason."""
    stream = io.StringIO()
    show(Lines(stream))
    assert stream.getvalue().splitlines() == [
        "start digits/moe on cpu",
        "[1/2] digits/moe: ok in 12 s",
        "start digits/dense on cpu",
        "[2/2] digits/dense: failed in 3.0 s: killed by SIGKILL [9]",
        "over",
    ]


def test_bar(capsys) -> None:
    """A terminal shows trials done of all, the running trial's phase and the time left."""
    stream = io.StringIO()
    clock = iter(range(100))
    console = Console(file=stream, force_terminal=True, width=150, color_system=None)
    show(Bar(console, clock=lambda: float(next(clock))))
    shown = stream.getvalue()
    for text in ("0/2", "train 25%: digits/moe", "1/2", "time: digits/dense", "2/2"):
        assert text in shown
    assert "about 12 s left" in shown  # one trial left, the first took 12.3 s
    assert "digits/dense: failed in 3.0 s: killed by SIGKILL [9]" in shown
    assert capsys.readouterr().out == ""


def test_narrow_bar() -> None:
    """On 80 columns long names are cut, on one line; count, time left and phase stay."""
    stream = io.StringIO()
    bar = Bar(Console(file=stream, force_terminal=True, width=80, color_system=None))
    name = "digits/transformer/mixture_of_depths,capacity=0.125,every=2/seed0-0123abcd"
    with bar:
        bar.begin(["digits"] * 100)
        bar.finished("first", "digits", "ok", None, 60.0)
        bar.started(name, "digits", "cpu")
        bar.phase(name, "calibrate", 0.0)
    last = [line for line in stream.getvalue().splitlines() if "1/100" in line][-1]
    assert "h 39 min left" in last  # 99 trials of 60 s
    assert "calibrate: digits/" in last
    assert name not in last


def test_display_by_stream() -> None:
    """A file gets plain lines; a terminal gets the bar."""
    assert isinstance(open_display(io.StringIO()), Lines)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.delenv("FORCE_COLOR", raising=False)
        assert isinstance(open_display(Terminal()), Bar)
        patch.setenv("TERM", "dumb")
        assert isinstance(open_display(Terminal()), Lines)
