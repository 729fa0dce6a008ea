"""What a count says about a published number, digit by digit.

compare("1.814", Fraction(1_814_073_344, 10**9))    REPRODUCED: rounded to the printed digits
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import floor

CLOSE_PERCENT = 2  # also of one printed digit: a coarser one says little when it is met


class Verdict(StrEnum):
    """How a count stands beside the published number; the value is what a table prints."""

    REPRODUCED = "REPRODUCED"
    COARSE = "REPRODUCED (1 digit)"  # the last printed digit is worth more than 2 %
    CLOSE = "CLOSE"
    OFF = "OFF"
    NOT_COMPARABLE = "NOT COMPARABLE"

    @property
    def reproduced(self) -> bool:
        """Whether the printed digits are met, however many there are."""
        return self in (Verdict.REPRODUCED, Verdict.COARSE)


@dataclass(frozen=True)
class Comparison:
    """A verdict, and the relative difference of the unrounded count in percent."""

    verdict: Verdict
    percent: float


def compare(published: str, counted: Fraction, *, truncated: bool = False) -> Comparison:
    """`counted` beside the number as printed, both in the same unit.

    `truncated`: the source cuts digits off instead of rounding. Raises ValueError for a published
    number of 0 or none, to which no relative difference exists.
    """
    printed, step = Fraction(published), last_digit(published)
    if printed <= 0:
        raise ValueError(f"published={published!r} is not above 0")
    percent = 100 * (counted / printed - 1)
    # In steps of the last digit, exactly: floating point would decide a half by its last bit.
    half = 0 if truncated else Fraction(1, 2)
    if floor(counted / step + half) * step == printed:
        coarse = 100 * step > CLOSE_PERCENT * printed
        return Comparison(Verdict.COARSE if coarse else Verdict.REPRODUCED, float(percent))
    close = abs(percent) <= CLOSE_PERCENT
    return Comparison(Verdict.CLOSE if close else Verdict.OFF, float(percent))


def last_digit(published: str) -> Fraction:
    """What one unit of the last printed digit is worth: "1.25e8" counts in steps of 1e6."""
    exponent = Decimal(published).as_tuple().exponent
    assert isinstance(exponent, int)  # NaN and infinity are refused as fractions first
    return Fraction(10) ** exponent
