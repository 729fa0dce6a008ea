"""The statistical gate: judgements of intervals, when rounds are added, what a rerun decides."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.regress.gate import (
    ENERGY,
    TIME,
    GateResult,
    confirm,
    decide,
    family_wise_error,
    judge,
    look_schedule,
    mean_ratio,
)
from bench.statistics import Interval


def interval(low: float | None, high: float | None) -> Interval:
    return Interval(1.0, low, high, 30, "bootstrap")


@pytest.mark.parametrize(
    ("low", "high", "judgement"),
    [
        (1.0201, 1.2, "regressed"),
        (1.02, 1.2, "inconclusive"),  # the low end must exceed +2 %
        (1.025, 1.045, "regressed"),  # although it lies inside +-5 %
        (0.95, 1.05, "equal"),
        (0.949, 1.05, "inconclusive"),
        (0.95, 1.051, "inconclusive"),
        (0.9, 0.98, "improved"),  # 1 / 1.02 = 0.9804
        (0.9, 0.981, "inconclusive"),
    ],
)
def test_the_interval_decides(low, high, judgement) -> None:
    """Regressed above +2 %, improved below its mirror, equal inside +-5 %, else inconclusive."""
    assert judge(interval(low, high), TIME) == judgement


def test_energy_has_a_wider_margin() -> None:
    """An interval from +2.5 % on regresses time, and energy only from +3 % on."""
    assert judge(interval(1.025, 1.2), TIME) == "regressed"
    assert judge(interval(1.025, 1.2), ENERGY) == "inconclusive"
    assert judge(interval(1.031, 1.2), ENERGY) == "regressed"


def test_no_interval_is_never_green() -> None:
    """Without an interval the judgement is inconclusive, whatever the value is."""
    assert judge(interval(None, None), TIME) == "inconclusive"


@given(st.floats(0.5, 2), st.floats(0.5, 2))
def test_improved_mirrors_regressed(one, other) -> None:
    """Exchanging the sides exchanges regressed and improved."""
    low, high = sorted((one, other))
    forth, back = judge(interval(low, high)), judge(interval(1 / high, 1 / low))
    swapped = {"regressed": "improved", "improved": "regressed"}
    near = any(abs(x - 1 / 1.02) < 1e-9 or abs(x - 1.02) < 1e-9 for x in (low, high))
    assert near or (forth in swapped) == (back in swapped)
    assert near or forth not in swapped or back == swapped[forth]


@pytest.mark.parametrize(
    ("start", "max_rounds", "numbers"),
    [(30, 100, [30, 60, 100]), (20, 100, [20, 40, 80, 100]), (100, 100, [100]), (200, 100, [100])],
)
def test_rounds_double_up_to_the_maximum(start, max_rounds, numbers) -> None:
    """The looks are at the start, at twice that and so on, the last at the maximum."""
    assert list(look_schedule(start, max_rounds)) == numbers


class Source:
    """Rounds that alternate around a centre; `requested` lists how many each call measured."""

    def __init__(self, centre: float, spread: float) -> None:
        self.centre, self.spread, self.requested = centre, spread, []

    def measure(self, number: int) -> list[float]:
        self.requested.append(number)
        return [self.centre + self.spread * (-1) ** i for i in range(number)]


def test_a_clear_change_needs_one_look() -> None:
    """+10 % with half a percent of noise is regressed after the first rounds."""
    source = Source(math.log(1.10), 0.005)
    result = decide(source.measure, 20)
    assert (result.judgement, source.requested, result.num_looks) == ("regressed", [20], 1)


def test_rounds_are_added_up_to_the_maximum() -> None:
    """Rounds that stay apart by 40 % are inconclusive after 100, measured in three steps."""
    source = Source(0.0, 0.2)
    result = decide(source.measure, 30)
    assert (result.judgement, source.requested) == ("inconclusive", [30, 30, 40])
    assert result.ratio.num_values == 100


def test_energy_windows_use_the_mean() -> None:
    """Five windows at +10 %, half a percent apart: the geometric mean with Student's t."""
    # logs 0.0953 +- 0.005 alternating: mean 0.0963 (3 up, 2 down), sd 0.0055, t(4) = 2.776,
    # half-width 2.776 * 0.0055 / sqrt(5) = 0.0068: low end exp(0.0895) = 1.094 > 1.03
    result = decide(Source(math.log(1.10), 0.005).measure, 5, ENERGY, 10, mean_ratio)
    assert result.judgement == "regressed"
    assert result.ratio.low == pytest.approx(1.0936, abs=2e-4)


def gated(judgement) -> GateResult:
    return GateResult(interval(1.03, 1.05), judgement, 1)


@pytest.mark.parametrize("first", ["regressed", "improved"])
@pytest.mark.parametrize("again", ["regressed", "improved", "equal", "inconclusive"])
def test_a_change_counts_when_the_rerun_repeats_it(first, again) -> None:
    """After a suspected change, a gain too, the rerun's judgement counts."""
    final, rerun = confirm(gated(first), lambda: gated(again))
    assert final.judgement == again
    assert rerun is not None


@pytest.mark.parametrize("judgement", ["equal", "inconclusive"])
def test_only_a_suspected_change_is_rerun(judgement) -> None:
    """Equal and inconclusive cost no second measurement."""
    final, rerun = confirm(gated(judgement), lambda: pytest.fail("measured again"))
    assert (final.judgement, rerun) == (judgement, None)


def test_the_family_wise_error_adds_up() -> None:
    """16 metrics with three looks: 16 x 7.5 % unconfirmed is no bound, 16 x 0.075^2 = 9 % is."""
    assert family_wise_error(16, 3, confirmed=False) == 1.0
    assert family_wise_error(16, 3, confirmed=True) == pytest.approx(0.09)
    assert family_wise_error(1, 1, confirmed=False) == pytest.approx(0.025)
