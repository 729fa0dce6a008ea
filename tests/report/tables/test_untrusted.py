"""Free-form parts of a record: what is not of the expected kind is not there."""

from __future__ import annotations

import math

import pytest

from bench.report.tables.untrusted import entries_of, entry_of, names_of, number_of, numbers_of


@pytest.mark.parametrize("value", [None, True, "1", [1], math.nan, math.inf, 10**400])
def test_only_finite_numbers_are_numbers(value):
    """A truth value, a text, infinity, and an integer that no float holds are none."""
    assert number_of(value) is None


def test_a_gap_empties_a_list_of_numbers():
    """Otherwise later places would be taken for earlier ones."""
    assert numbers_of([1, 0.5]) == [1.0, 0.5]
    assert numbers_of([1, None, 0.5]) == []
    assert numbers_of("12") == []


def test_lists_keep_what_is_of_their_kind():
    """Objects among objects, texts among texts; anything else is left out."""
    assert entries_of([{"a": 1}, 2, "x"]) == [{"a": 1}]
    assert names_of(["a", 1, None, "b"]) == ["a", "b"]
    assert (entries_of({"a": 1}), names_of("ab"), entry_of([1])) == ([], [], {})
