"""Witten-Bell n-grams against hand-worked values and the laws of probability."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from bench.tasks.parts.ngram import bits_per_symbol


def rows(values: ArrayLike) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_a_unigram_by_hand() -> None:
    """Symbols counted 3 and 1 of 4, two distinct: P = (c + 2 * 1/2) / (4 + 2)."""
    bits = bits_per_symbol(rows([[0, 0, 0, 1]]), rows([[1, 0, 1]]), 1, 2)
    # the first symbol of a row is not predicted; then P(0) = 4/6 and P(1) = 2/6
    assert bits == pytest.approx(-(math.log2(4 / 6) + math.log2(2 / 6)) / 2)


def test_a_bigram_by_hand() -> None:
    """abab: after a always b (twice), after b once a; both mixed with the even unigram."""
    bits = bits_per_symbol(rows([[0, 1, 0, 1]]), rows([[0, 1, 0]]), 2, 2)
    # unigram (2 + 2/2) / (4 + 2) = 1/2; P(b|a) = (2 + 1/2) / (2 + 1), P(a|b) = (1 + 1/2) / (1 + 1)
    assert bits == pytest.approx(-(math.log2(5 / 6) + math.log2(3 / 4)) / 2)


def test_an_unseen_context_falls_back() -> None:
    """After a symbol that is not in training, the bigram is the unigram."""
    train, test = rows([[0, 1, 0, 1]]), rows([[2, 0]])
    assert bits_per_symbol(train, test, 2, 3) == bits_per_symbol(train, test, 1, 3)


def test_the_start_of_a_row_has_the_context_it_has() -> None:
    """With one symbol before it, a trigram equals a bigram."""
    train, test = rows([[0, 1, 1, 0, 1, 0, 0, 1]]), rows([[0, 1], [1, 1], [0, 0]])
    assert bits_per_symbol(train, test, 3, 2) == bits_per_symbol(train, test, 2, 2)


@given(
    st.lists(st.integers(0, 3), min_size=3, max_size=30),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_probabilities_of_all_symbols_sum_to_one(
    train: list[int], context: int, order: int
) -> None:
    """Over the whole vocabulary, whatever was counted, the probabilities after a context are 1."""
    each = [bits_per_symbol(rows([train]), rows([[context, s]]), order, 4) for s in range(4)]
    assert sum(2**-bits for bits in each) == pytest.approx(1.0)


@pytest.mark.parametrize("order", [0, 10])
def test_an_order_that_cannot_be_counted_is_rejected(order: int) -> None:
    """Order 0, or 10-grams of 103 symbols that overflow 64 bits, are errors."""
    with pytest.raises(ValueError, match="cannot be counted"):
        bits_per_symbol(rows([[0, 1]]), rows([[0, 1]]), order, 103)


def test_an_order_beyond_the_row_adds_nothing() -> None:
    """Rows of three symbols hold no run of five: the 5-gram is the 3-gram."""
    train, test = rows([[0, 1, 2], [0, 1, 1], [2, 1, 0]]), rows([[0, 1, 2], [2, 2, 1]])
    assert bits_per_symbol(train, test, 5, 3) == bits_per_symbol(train, test, 3, 3)
    assert bits_per_symbol(train, test, 3, 3) != bits_per_symbol(train, test, 2, 3)
