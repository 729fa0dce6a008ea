"""The two rules behind every answer, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from bench.report.claims.outcome import (
    Answer,
    Outcome,
    Quality,
    claim_at_equal_quality,
    claim_of_difference,
    exactly,
)
from bench.statistics.intervals import Interval
from bench.statistics.verdict import Loss

KEPT = Quality(Loss(0.1, -0.2, 0.4), 1.0, "accuracy %")  # at most 0.4 points lost: below 1
LOST = Quality(Loss(3.0, 2.0, 4.0), 1.0, "accuracy %")
OPEN = Quality(Loss(0.9, 0.2, 1.6), 1.0, "accuracy %")  # 0.2 to 1.6 contains 1
BETTER = Quality(Loss(-2.0, -3.0, -1.0), 1.0, "accuracy %")
NONE = Quality(None, 1.0, "accuracy %")


def ratio(value: float, half: float = 0.05) -> Interval:
    return Interval(value, value - half, value + half, 3, "student t")


@pytest.mark.parametrize(
    ("found", "quality", "least", "answer", "note"),
    [
        (ratio(1.5), KEPT, 1.0, "yes", ""),
        # 1.45 / 1.3 = 1.12 and 1.55 / 1.3 = 1.19: all above 1.
        (ratio(1.5), KEPT, 1.3, "yes", ""),
        # 1.27 / 1.3 = 0.98, 1.37 / 1.3 = 1.05.
        (ratio(1.32), KEPT, 1.3, "undecided", "the interval contains 1.3"),
        (ratio(1.2), KEPT, 1.3, "no", ""),
        (ratio(1.5), LOST, 1.0, "no", "quality is lost: 3.00 accuracy %, tolerance 1.00"),
        # Slower, whatever the quality is; the quality is lost, whatever the time is.
        (ratio(0.5), NONE, 1.0, "no", ""),
        (ratio(1.0), LOST, 1.0, "no", "quality is lost: 3.00 accuracy %, tolerance 1.00"),
        (ratio(0.5), BETTER, 1.0, "no", "at better quality"),
        (ratio(1.5), NONE, 1.0, "undecided", "no difference in quality to dense with an interval"),
        # (1.6 - 0.2) / 2 = 0.7
        (
            *(ratio(1.5), OPEN, 1.0, "undecided"),
            "the loss of quality is known to \u00b10.7 accuracy %, the tolerance is 1",
        ),
        (exactly(1.01), KEPT, 1.0, "yes", ""),
        (exactly(0.99), KEPT, 1.0, "no", ""),
    ],
)
def test_ratios_at_equal_quality(
    found: Interval, quality: Quality, least: float, answer: str, note: str
) -> None:
    """Yes needs both sides; no is said as soon as one side refuses."""
    outcome = claim_at_equal_quality(found, quality, least=least)
    assert (outcome.answer, outcome.note) == (answer, note)
    assert (outcome.value, outcome.low) == (found.value, found.low)


def test_noise_decides_nothing() -> None:
    """1.35 is 3.8 % above 1.3, and identical models differed by 5 %: near 1.3, not near 1."""
    found = ratio(1.35, 0.01)
    assert claim_at_equal_quality(found, KEPT, noise=0.05).answer is Answer.YES
    near = claim_at_equal_quality(found, KEPT, least=1.3, noise=0.05)
    assert near.answer is Answer.UNDECIDED
    assert near.note == "timing noise: identical models differed by 5.0%"
    assert claim_at_equal_quality(found, LOST, least=1.3, noise=0.05).answer is Answer.NO


@pytest.mark.parametrize(
    ("value", "half", "direction", "answer", "shown"),
    [
        # One-sided bounds are 1.6449 / 1.96 = 0.839 of the half width: 0.5 - 0.42 > 0.
        (0.5, 0.5, "higher", "yes", "+0.50"),
        # 0.5 - 0.84 < 0, and 0.5 + 0.84 > 1: a gain above the tolerance is possible.
        (0.5, 1.0, "higher", "undecided", "+0.5"),
        # 0.2 + 0.42 < 1.
        (0.2, 0.5, "higher", "no", "+0.20"),
        (-2.0, 0.5, "higher", "no", "-2.00"),
        (-0.5, 0.4, "lower", "yes", "+0.50"),  # fewer bits are better, and shown as positive
    ],
)
def test_differences_of_quality(
    value: float, half: float, direction: str, answer: str, shown: str
) -> None:
    """Against 0 and a tolerance of 1, turned so that positive is better."""
    found = Interval(value, value - half, value + half, 3, "student t")
    outcome = claim_of_difference(found, direction, 1.0, "accuracy %")
    assert outcome.answer == answer
    assert outcome.number == shown
    assert outcome.low is not None
    assert outcome.high is not None
    assert math.isclose(outcome.high - outcome.low, 2 * half)


def test_numbers_as_text() -> None:
    """Ratios and shares without a sign, differences with the decimals of their interval."""
    assert Outcome(Answer.YES, 1.834, 1.77, 1.89, "x").text == "1.83x"
    assert Outcome(Answer.YES, 1.834, 1.77, 1.89, "x").interval == "[1.77, 1.89]"
    assert Outcome(Answer.YES, 2.0, 2.0, 2.0, "x").interval == "exact"
    assert Outcome(Answer.NO, 8.863, unit="%").text == "8.86 %"
    signed = Outcome(Answer.YES, 0.0739, 0.0432, 0.1046, "bits/character", is_difference=True)
    assert (signed.text, signed.interval) == ("+0.074 bits/character", "[+0.043, +0.105]")
    alone = Outcome(Answer.UNDECIDED, 0.35, unit="accuracy %", is_difference=True)
    assert (alone.text, alone.interval) == ("+0.350 accuracy %", "")
    assert Outcome(Answer.NOT_MEASURED).text == ""
