"""Numbers have significant digits, and an interval decides what is a difference."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.tables.cells import Cell
from bench.report.tables.numbers import Text, difference, number, plain, ratio, verdict


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.746, 3, "1.75"),
        (99.96, 3, "100"),
        (1234.5, 3, "1234"),
        (0.001234, 3, "0.00123"),
        (0.0, 3, "0"),
        (-0.5, 2, "-0.50"),
        (0.92345, 4, "0.9234"),
        (1.5e12, 3, "1.50e+12"),
        (1e-9, 2, "1.0e-09"),
        (math.inf, 3, "inf"),
        (1.7976e308, 3, "1.80e+308"),
    ],
)
def test_numbers_have_significant_digits(value: float, digits: int, text: str):
    """Three digits by default, no exponent in everyday magnitudes."""
    assert number(value, digits) == text


@given(st.floats(-1e300, 1e300), st.integers(1, 6))
def test_a_number_reads_back_within_its_digits(value: float, digits: int):
    """What is shown differs from the value by at most half of its last digit."""
    assert float(number(value, digits)) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.01, 1.2, "better"),
        (0.8, 0.99, "worse"),
        (0.99, 1.5, "tie"),
        (1.0, 1.5, "tie"),
        (None, None, ""),
    ],
)
def test_only_an_interval_clear_of_one_is_a_difference(low, high, expected: str):
    """A tie: the interval contains 1; no interval, no verdict."""
    assert verdict(Cell(1.1, "1", low, high), 1.0) == expected


def test_an_interval_has_the_decimals_of_its_number():
    """1.53 with a half width of 0.0762 is +-0.08; a width below the last digit keeps one digit."""
    assert plain(Cell(1.5312, "s", 1.455, 1.6074), spread=True) == Text("1.53", "\u00b10.08")
    assert plain(Cell(1.5312, "s", 1.5308, 1.5316), spread=True) == Text("1.53", "\u00b10.0004")


def test_a_difference_without_an_interval_is_a_bare_number():
    """A diverged seed can leave no interval to print."""
    assert difference(Cell(-2.5, "nat")) == Text("-2.50")


bound = st.floats(-1e308, 1e308)


@given(bound, bound, bound)
def test_any_number_can_be_written(value: float, one: float, other: float):
    """No magnitude of value or bounds stops a table, and the verdict is one of the three."""
    cell = Cell(value, "1", min(one, other), max(one, other))
    for write in (plain, ratio, difference):
        assert write(cell).main
    assert ratio(cell).verdict in ("tie", "better", "worse")
