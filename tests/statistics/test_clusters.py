"""Means over samples of fewer originals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.statistics.clusters import clustered_mean


def test_by_hand() -> None:
    """Two originals with two samples each: the clusters' sums carry the variance."""
    # mean 1; sums of deviations: (1-1)+(3-1) = 2 and (0-1)+(0-1) = -2
    # variance = 2/1 * (4 + 4) / 16 = 1; t(1 degree of freedom, 97.5 %) = 12.7062
    found = clustered_mean([1.0, 3.0, 0.0, 0.0], [7, 7, 9, 9])
    assert found.value == 1
    assert found.high == pytest.approx(1 + 12.7062, abs=1e-4)
    assert found.low == pytest.approx(1 - 12.7062, abs=1e-4)


def test_without_clusters_it_is_students_t() -> None:
    """Every value is an original of its own: the ordinary interval of a mean."""
    # values 0, 1, 2: mean 1, standard error 1/sqrt(3); t(2, 97.5 %) = 4.30265
    found = clustered_mean([0.0, 1.0, 2.0])
    assert found.high == pytest.approx(1 + 4.30265 / math.sqrt(3), abs=1e-4)


def test_copies_add_nothing() -> None:
    """Each value twice, in one cluster: the interval of the values once."""
    once = clustered_mean([0.0, 1.0, 2.0, 5.0])
    twice = clustered_mean(np.repeat([0.0, 1.0, 2.0, 5.0], 2), np.repeat([3, 1, 4, 2], 2))
    assert twice.low == pytest.approx(once.low)
    assert twice.high == pytest.approx(once.high)


def test_equal_values_follow_the_rule_of_three() -> None:
    """Identical answers to 300 samples: at most 3 in 300 may differ, by 100 points each."""
    found = clustered_mean(np.zeros(300), largest=100.0)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_one_original_has_no_interval() -> None:
    """Nothing is known of others."""
    found = clustered_mean([1.0, 2.0], [5, 5])
    assert (found.value, found.low, found.high) == (1.5, None, None)


def test_coverage() -> None:
    """Of 400 test sets with 40 originals of 20 samples each, 95 % cover the truth, +-3.3 points."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 20)
    hits = naive = 0
    for _ in range(400):
        values = rng.normal(size=40)[clusters] + rng.normal(size=800)
        found, plain = clustered_mean(values, clusters), clustered_mean(values)
        assert found.low is not None
        assert found.high is not None
        assert plain.low is not None
        assert plain.high is not None
        hits += found.low <= 0 <= found.high
        naive += plain.low <= 0 <= plain.high
    assert 0.917 <= hits / 400 <= 0.983
    assert naive / 400 < 0.6  # what ignoring the originals would claim as 95 %


def test_what_is_refused() -> None:
    """No value, NaN, and clusters of another number."""
    for values, clusters in (([], None), ([math.nan], None), ([1.0, 2.0], [1])):
        with pytest.raises(ValueError, match=r"interval needs|but clusters of 1"):
            clustered_mean(values, clusters)
