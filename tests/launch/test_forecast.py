"""The time left, by hand-worked sums."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.launch.forecast import Forecast, format_duration


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
def test_format_duration(seconds, text) -> None:
    """The unit follows the size."""
    assert format_duration(seconds) == text


def test_time_left_is_unknown_before_the_first() -> None:
    """No estimate before a trial has run to its end."""
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


def test_only_complete_trials_count() -> None:
    """Skipped, failed and interrupted trials, and those of other launchers, are no evidence."""
    forecast = Forecast(Counter(digits=5))
    for status, took_s in (("skipped", 0.1), ("failed", 1.0), ("interrupted", 2.0), ("ok", 0.0)):
        forecast.finished("digits", status, took_s)
    assert forecast.left_s([]) is None
    assert forecast.left["digits"] == 1
