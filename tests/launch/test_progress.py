"""The display: plain lines, and the bar on a simulated terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.launch.progress import Bar, Lines, open_display


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
        display.message("over")


def test_a_reason_does_not_control_the_terminal() -> None:
    """Escape sequences in a plugin's error become blanks, on a terminal and elsewhere."""
    evil = "\x1b]0;owned\x07 \x9b2J \x1b[31mred"
    for terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=150, color_system=None)
        with Bar(console) if terminal else Lines(stream) as display:
            display.begin(["digits"])
            display.finished("digits/moe", "digits", "failed", evil, 3.0)
            display.message(evil)
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
