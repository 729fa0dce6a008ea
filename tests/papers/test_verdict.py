"""Verdicts digit by digit, with numbers worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bench.papers.verdict import Verdict, compare, last_digit


def test_the_last_printed_digit_is_the_step() -> None:
    """1.814 counts in thousandths, 1.25e8 in millions, 238 in ones."""
    steps = [last_digit(text) for text in ("1.814", "1.25e8", "238", "24.0")]
    assert steps == [Fraction(1, 1000), 10**6, 1, Fraction(1, 10)]


@pytest.mark.parametrize(
    ("published", "counted", "verdict"),
    [
        ("1.814", "1.8140733", Verdict.REPRODUCED),  # rounds to 1.814
        ("1.25e8", "125485696", Verdict.REPRODUCED),  # 125.49 M rounds to 125 M
        ("25557032", "25557032", Verdict.REPRODUCED),
        ("25557032", "25557033", Verdict.CLOSE),  # one too many: exact digits are exact
        ("569", "568.74", Verdict.REPRODUCED),
        ("569", "568.49", Verdict.CLOSE),  # rounds to 568
        ("1.8", "1.8140733", Verdict.COARSE),  # a step of 0.1 is 5.6 % of 1.8
        ("5.1", "5.1328", Verdict.REPRODUCED),  # 0.1 is 1.96 % of 5.1
        ("4.9", "4.9", Verdict.COARSE),  # 0.1 is 2.04 % of 4.9
        ("3.6", "3.6637", Verdict.CLOSE),  # rounds to 3.7; 1.8 % above
        ("65", "63.08", Verdict.OFF),  # 2.95 % below
        ("100", "102", Verdict.CLOSE),  # exactly 2 %
        ("100", "102.6", Verdict.OFF),
        ("0.25", "0.245", Verdict.COARSE),  # a half rounds up
    ],
)
def test_verdicts(published: str, counted: str, verdict: Verdict) -> None:
    """Equal after rounding, within 2 %, or further off."""
    assert compare(published, Fraction(counted)).verdict == verdict


def test_digits_are_cut_only_where_the_source_cuts_them() -> None:
    """2.98 rounds to 3.0 (2.8 % above the printed 2.9) and is cut to 2.9."""
    counted = Fraction("2.98")
    assert compare("2.9", counted).verdict == Verdict.OFF
    assert compare("2.9", counted, truncated=True).verdict == Verdict.COARSE


def test_the_difference_is_that_of_the_unrounded_count() -> None:
    """102.6 is 2.6 % above 100; 63.08 is 2.954 % below 65."""
    assert compare("100", Fraction("102.6")).percent == pytest.approx(2.6)
    assert compare("65", Fraction("63.08")).percent == pytest.approx(-2.954, abs=0.001)


@pytest.mark.parametrize("published", ["0", "-1"])
def test_nothing_is_relative_to_zero(published: str) -> None:
    """A published number of 0 has no relative difference."""
    with pytest.raises(ValueError, match="is not above 0"):
        compare(published, Fraction(1))
