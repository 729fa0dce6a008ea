"""The shift of a budget: the largest one found whose share stays within it."""

from __future__ import annotations

import math

import pytest

from methods.parts.shifts import CLOSE, Shift, find_shifts


def test_a_smooth_share_is_met() -> None:
    """sigmoid(s) is 1/2 at 0 and 1/4 at -ln 3; the share stays below by 0.005 at most."""
    found = find_shifts(lambda s: 1 / (1 + math.exp(-s)), [0.5, 0.25])
    for shift, budget, exact in zip(found, (0.5, 0.25), (0.0, -math.log(3)), strict=True):
        assert budget - CLOSE <= 1 / (1 + math.exp(-shift)) <= budget
        # Slope s (1 - s) is 3/16 at least: 0.005 of the share are 0.027 of the shift.
        assert exact - 0.03 <= shift <= exact


def test_a_step_is_approached_from_below() -> None:
    """Where the share jumps from 0.2 to 0.9 at 1, a budget of 0.5 gets the last 0.2."""
    (found,) = find_shifts(lambda s: 0.2 if s < 1 else 0.9, [0.5])
    assert 1 - 64 / 2**12 <= found < 1


def test_a_budget_of_everything_needs_no_try() -> None:
    """Within a budget of 1 everything runs, whatever the share would be."""
    assert find_shifts(lambda s: pytest.fail("measured"), [1.0]) == [32.0]


def test_the_default_is_in_use_after_fitting() -> None:
    """Shifts travel with the state_dict; an unknown budget is refused."""
    shift = Shift([0.5, 1.0])
    shift.fit(lambda: 1 / (1 + math.exp(-float(shift.value))))
    assert float(shift.value) == pytest.approx(0, abs=0.03)
    shift.use(1.0)
    assert shift.state_dict()["value"] == 32.0
    with pytest.raises(ValueError, match=r"0\.3"):
        shift.use(0.3)
