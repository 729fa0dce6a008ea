"""The one verdict on speed-up and quality."""

from __future__ import annotations

import math

import pytest

from bench.statistics import Interval
from bench.statistics.verdict import Loss, Verdict, judge, loss_of, tolerance_of, why_unclear

FASTER, SLOWER = (1.2, 1.1, 1.3), (0.8, 0.7, 0.9)


def speed(value: float, low: float | None, high: float | None) -> Interval:
    return Interval(value, low, high, 5, "test")


@pytest.mark.parametrize(
    ("speedup", "loss", "verdict"),
    [
        (FASTER, (0.0, -0.8, 0.8), Verdict.PAYS),
        (FASTER, (-2.0, -3.0, -1.0), Verdict.PAYS),  # better as well
        (FASTER, (2.35, 1.22, 3.48), Verdict.FASTER_BUT_WORSE),  # lost for certain
        (FASTER, (1.2, 0.8, 1.6), Verdict.CANNOT_TELL),  # worse, but by a point or less?
        (FASTER, (0.0, -2.0, 2.0), Verdict.CANNOT_TELL),  # not significant is not equal
        (SLOWER, (-1.2, -2.0, -0.4), Verdict.BETTER_BUT_SLOWER),
        (SLOWER, (0.0, -0.5, 0.5), Verdict.NO_GAIN),
        (SLOWER, (3.0, 2.0, 4.0), Verdict.NO_GAIN),
        ((1.0, 0.99, 1.01), (0.0, -0.5, 0.5), Verdict.NO_GAIN),  # as fast, for certain
        ((1.0, 0.9, 1.2), (0.0, -0.5, 0.5), Verdict.CANNOT_TELL),
        ((1.0, 0.99, 1.01), (-1.2, -2.0, -0.4), Verdict.CANNOT_TELL),  # better at the same speed
        ((1.2, None, None), (0.0, -0.5, 0.5), Verdict.CANNOT_TELL),
    ],
)
def test_every_case(speedup: tuple, loss: tuple, verdict: Verdict) -> None:
    """With a tolerance of one point."""
    assert judge(speed(*speedup), Loss(*loss), 1.0) is verdict


def test_what_is_missing_decides_nothing() -> None:
    """No speed-up, or no loss, is no verdict."""
    assert judge(None, Loss(0, -1, 0.5), 1.0) is Verdict.CANNOT_TELL
    assert judge(speed(*FASTER), None, 1.0) is Verdict.CANNOT_TELL
    for tolerance in (-1, math.nan):
        with pytest.raises(ValueError, match=f"0 or more, not {tolerance}"):
            judge(None, None, tolerance)


@pytest.mark.parametrize("known", [FASTER, SLOWER])
def test_nan_decides_nothing(known: tuple) -> None:
    """Every comparison with NaN is false; none of them may end in a verdict."""
    nan = math.nan
    assert judge(speed(*known), Loss(nan, nan, nan), 1.0) is Verdict.CANNOT_TELL
    assert judge(speed(nan, nan, nan), Loss(0.0, -0.5, 0.5), 1.0) is Verdict.CANNOT_TELL


def test_bounds_that_touch_a_limit() -> None:
    """A loss of exactly the tolerance is kept; a speed-up of exactly 1 is none."""
    assert judge(speed(*FASTER), Loss(0.0, 0.0, 0.0), 0.0) is Verdict.PAYS
    assert judge(speed(1.0, 1.0, 1.0), Loss(0.0, 0.0, 0.0), 0.0) is Verdict.NO_GAIN


@pytest.mark.parametrize(
    ("unit", "dense", "tolerance"),
    [
        ("accuracy %", 92.0, 1.0),
        ("bits/character", 2.3, 0.02),
        ("F1", -0.5, 0.005),
        ("F1", math.nan, 0),
    ],
)
def test_the_default_tolerance_follows_the_unit(unit: str, dense: float, tolerance: float) -> None:
    """One point, 0.02 bits, one per cent of anything else."""
    assert tolerance_of(unit, dense) == pytest.approx(tolerance)
    assert tolerance_of(unit, dense, 3.0) == 3.0


def test_a_loss_by_hand() -> None:
    """+0.5 [-0.5, 1.5] points of accuracy: a loss of -0.5 with one-sided bounds 0.8393 away."""
    gain = Interval(0.5, -0.5, 1.5, 9, "test")
    assert loss_of(gain, "higher") == Loss(
        -0.5, pytest.approx(-1.3393, abs=1e-4), pytest.approx(0.3393, abs=1e-4)
    )
    # Bits: 0.5 more is a loss of 0.5.
    assert loss_of(gain, "lower") == Loss(
        0.5, pytest.approx(-0.3393, abs=1e-4), pytest.approx(1.3393, abs=1e-4)
    )
    assert loss_of(Interval(0.5, None, None, 1, "none"), "higher") is None


def test_what_stands_in_the_way() -> None:
    """One reason each, and none beside a verdict."""
    kept = Loss(0.0, -0.5, 0.5)
    assert why_unclear(speed(*FASTER), kept, 1.0, "accuracy %") == ""
    assert why_unclear(None, kept, 1.0, "accuracy %") == "no speed-up with an interval"
    assert why_unclear(speed(*FASTER), None, 1.0, "accuracy %").startswith(
        "no difference in quality"
    )
    assert why_unclear(speed(1.0, 0.9, 1.2), kept, 1.0, "%") == "the speed-up's interval contains 1"
    found = why_unclear(speed(*FASTER), Loss(0.2, -1.2, 1.6), 1.0, "accuracy %")
    assert found == "the loss of quality is known to \u00b11.4 accuracy %, the tolerance is 1"
