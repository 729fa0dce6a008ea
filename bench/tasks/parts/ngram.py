"""Interpolated Witten-Bell n-grams: the baseline of character models.

    P_k(w | h) = (c(h w) + n(h) P_{k-1}(w | h')) / (c(h) + n(h))

c counts occurrences in the training text, n(h) the distinct symbols seen after h, h' is h without
its oldest symbol, and P_0 is uniform (Witten and Bell 1991; Chen and Goodman 1999, section 2.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]


def bits_per_symbol(train: Symbols, test: Symbols, order: int, num_symbols: int) -> float:
    """Mean cost in bits of each symbol of `test` after the first of its row.

    `train` [N, L] and `test` [M, L'] hold rows of symbols below `num_symbols`. Contexts never cross
    rows, and the start of a row is predicted from the shorter context it has, as by a language
    model of that window. An order beyond the row adds nothing. Raises ValueError for an order below
    one, or one whose n-grams do not fit into 64 bits.
    """
    if order < 1 or num_symbols**order >= 2**63:
        raise ValueError(f"order {order} over {num_symbols} symbols cannot be counted")
    # P_0 is uniform; each order refines the positions that have a context of its length.
    probability = np.full((len(test), test.shape[1] - 1), 1.0 / num_symbols)
    for length in range(1, min(order, train.shape[1], test.shape[1]) + 1):
        probability[:, max(length - 2, 0) :] = _interpolate(
            _grams(train, length, num_symbols).ravel(),
            # The first symbol of a row is not predicted: unigrams start at the second.
            _grams(test, length, num_symbols)[:, 1 if length == 1 else 0 :],
            probability[:, max(length - 2, 0) :],
            num_symbols,
        )
    return float(-np.log2(probability).mean())


def _grams(rows: Symbols, length: int, num_symbols: int) -> Symbols:
    """Every run of `length` symbols in each row as one number, [N, L - length + 1]."""
    num_grams = rows.shape[1] - length + 1
    grams = np.zeros((len(rows), num_grams), np.int64)
    for offset in range(length):
        grams = grams * num_symbols + rows[:, offset : offset + num_grams]
    return grams


def _interpolate(
    train: Symbols, test: Symbols, shorter: NDArray[np.float64], num_symbols: int
) -> NDArray[np.float64]:
    """P_k of the n-grams `test` from the counted n-grams `train` and P_{k-1}, shaped as `test`."""
    grams, counts = np.unique(train, return_counts=True)  # sorted: equal contexts are adjacent
    contexts, first = np.unique(grams // num_symbols, return_index=True)
    distinct = np.diff(np.append(first, len(grams)))
    total = np.add.reduceat(counts, first)
    context = test // num_symbols
    num_seen = _look_up(contexts, total, context)
    num_distinct = _look_up(contexts, distinct, context)
    smoothed = _look_up(grams, counts, test) + num_distinct * shorter
    return np.where(num_seen > 0, smoothed / np.maximum(num_seen + num_distinct, 1), shorter)


def _look_up(keys: Symbols, values: Symbols, wanted: Symbols) -> Symbols:
    """The value of every wanted key, 0 for an absent one; `keys` are sorted."""
    # searchsorted returns len(keys) beyond the last key.
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
