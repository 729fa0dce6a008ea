"""Ranges of an inference-time setting."""

from __future__ import annotations

from methods.parts.ranges import MAX_COUNTS, counts_up_to


def test_all_of_few() -> None:
    """The trained number first, then every other."""
    assert counts_up_to(4, 2) == [2, 1, 3, 4]
    assert counts_up_to(1, 3) == [3, 1, 2]


def test_many_grow_by_a_factor() -> None:
    """64 in six steps: a factor of two each."""
    assert counts_up_to(64, 16) == [16, 1, 2, 4, 8, 32, 64]
    assert len(counts_up_to(1000, 7)) == MAX_COUNTS
