"""Arithmetic of the column `counted`: exact, and nothing but arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bench.papers.arithmetic import evaluate, names_in


def test_operators_bind_as_in_mathematics() -> None:
    """2 + 3 x 4 = 14, (2 + 3) x 4 = 20, -(8 - 2) / 4 = -3/2, and 0.1 is one tenth."""
    texts = ("2 + 3 * 4", "(2 + 3) * 4", "-(8 - 2) / 4", "0.1")
    assert [evaluate(text, {}) for text in texts] == [14, 20, Fraction(-3, 2), Fraction(1, 10)]


def test_large_counts_keep_their_last_digit() -> None:
    """As floating point, 2^60 + 1 would be 2^60."""
    assert evaluate("params + 1", {"params": Fraction(2**60)}) == 2**60 + 1


def test_names_are_counts() -> None:
    """A name without a count is an error that lists those there are."""
    assert list(names_in("macs + 2 * params")) == ["macs", "params"]
    with pytest.raises(ValueError, match=r"no count .mac.; there are macs, params"):
        evaluate("mac", {"macs": Fraction(1), "params": Fraction(1)})


@pytest.mark.parametrize(
    "text", ["2 ** 3", "abs(1)", "params.real", "[1][0]", "1 if 1 else 2", "True", "'a'", "1; 2"]
)
def test_anything_else_is_refused(text: str) -> None:
    """No calls, attributes, powers or statements: the file is data."""
    with pytest.raises(ValueError, match=r"only numbers, names|is no arithmetic"):
        evaluate(text, {"params": Fraction(1)})
