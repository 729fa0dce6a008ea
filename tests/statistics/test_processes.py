"""Intervals from several processes: what changes between processes is what is sampled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.statistics.processes import (
    BETWEEN_SESSIONS,
    Spread,
    difference_interval,
    pool,
    process_interval,
    process_medians,
    spread_of,
)


def test_by_hand() -> None:
    """Medians 0.1, 0.2, 0.3: mean 0.2, variance 0.01, t(2) = 4.303: 0.2 -+ 4.303 x 0.1 / sqrt 3."""
    found = process_interval([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert found.method == "3 processes, 2 degrees of freedom"


def test_a_process_counts_once_however_many_rounds_it_has() -> None:
    """The median of each: 1, 2 and 9 rounds give three values."""
    rounds = [[0.1], [0.2, 0.4], [0.0] * 4 + [0.5] * 5]
    assert process_medians(rounds) == pytest.approx([0.1, 0.3, 0.5])
    for bad in ([], [[0.1], []], [[math.nan]]):
        with pytest.raises(ValueError, match=r"round|finite"):
            process_medians(bad)


def test_pooling_by_hand() -> None:
    """Variances 0.02 with 1 and 0.01 with 2 degrees of freedom: (0.02 + 0.02) / 3 with 3."""
    found = pool([[0.0, 0.2], [0.1, 0.2, 0.3], [0.7]])
    assert found is not None
    assert (found.variance, found.df) == pytest.approx((0.04 / 3, 3))
    assert pool([[0.7], [0.1]]) is None
    assert spread_of([0.7]) is None


def test_one_process_has_no_interval_of_its_own() -> None:
    """It has one where other trials of the run show what changes between processes."""
    assert process_interval([0.3]).low is None
    assert "one process" in process_interval([0.3]).reason
    found = process_interval([0.3], Spread(0.01, 10))
    assert found.high - found.low == pytest.approx(2 * 2.228139 * 0.1)


def test_a_restless_trial_keeps_its_own_spread() -> None:
    """Ten times the pooled standard deviation is no chance; one and a half times may be."""
    pooled = Spread(0.01**2, 20)
    steady = process_interval([0.0, 0.015, -0.015], pooled)
    assert "20 degrees" in steady.method
    restless = process_interval([0.0, 0.1, -0.1], pooled)
    assert "2 degrees" in restless.method


def test_the_part_of_a_session_by_hand() -> None:
    """0.01 / 3 with 2 and 0.01 with 4 degrees of freedom: 0.0133 with 64 / 11 of them, t = 2.4656.

    Welch and Satterthwaite: 0.0133^2 / ((0.01 / 3)^2 / 2 + 0.01^2 / 4) = 5.818.
    """
    found = process_interval([0.1, 0.2, 0.3], None, Spread(0.01, 4))
    half = 2.4656 * math.sqrt(0.04 / 3)
    assert (found.value, found.high) == pytest.approx((0.2, 0.2 + half), rel=1e-5)
    assert found.method == "3 processes, 5.818 degrees of freedom, 10.0% between sessions"
    # Two sessions differ by twice the variance of one: 2 x (0.01 / 3 + 0.01).
    pair = difference_interval([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], Spread(0.01, 4))
    parts = [(0.01 / 3, 2), (0.01 / 3, 2), (0.02, 4)]
    df = (0.08 / 3) ** 2 / sum(variance**2 / each for variance, each in parts)
    assert f"{df:.1f} degrees" in pair.method
    assert pair.high - pair.low > 2 * 1.96 * math.sqrt(0.08 / 3)


def test_what_all_processes_of_a_session_share_is_covered() -> None:
    """Sessions differ by 3.1 %, processes by 4 %, six trials of three processes, 2,000 sessions.

    Without the session's part the intervals cover 82 to 90 %.
    """
    generator = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(2000):
        trials = generator.normal(0, BETWEEN_SESSIONS.sd, size=(6, 1))
        trials = trials + generator.normal(0, 0.04, size=(6, 3))
        pooled = pool(list(trials))
        for trial in trials:
            for number, sessions in enumerate((None, BETWEEN_SESSIONS)):
                found = process_interval(trial, pooled, sessions)
                covered[number] += found.low <= 0 <= found.high
    without, with_part = covered / (6 * 2000)
    assert 0.75 <= without <= 0.90
    assert 0.93 <= with_part <= 0.98


@pytest.mark.parametrize("num_processes", [3, 5, 10])
def test_coverage_with_pooling(num_processes: int) -> None:
    """95 % intervals over 20 trials of a run cover the truth in 93 to 97 % of 4,000 cases.

    Between processes 2 %, within 1 % over five rounds: sd of a median of five is 0.54 %.
    """
    generator = np.random.default_rng(0)
    covered = total = 0
    for _ in range(200):
        offsets = generator.normal(0, 0.02, size=(20, num_processes, 1))
        rounds = offsets + generator.normal(0, 0.01, size=(20, num_processes, 5))
        medians = [process_medians(list(trial)) for trial in rounds]
        pooled = pool(medians)
        for trial in medians:
            found = process_interval(trial, pooled)
            covered += found.low <= 0 <= found.high
            total += 1
    assert 0.93 <= covered / total <= 0.97


@pytest.mark.parametrize(("num_trials", "lowest"), [(3, 0.88), (6, 0.92), (12, 0.92)])
def test_one_restless_trial_among_few_is_covered(num_trials: int, lowest: float) -> None:
    """Ten times the others' spread: its own interval, though it is most of what is pooled.

    Against a pool that holds it, it would never be conspicuous: 55 % of six trials' intervals
    covered. The others' intervals stay valid.
    """
    generator = np.random.default_rng(0)
    scale = np.array([0.01] * (num_trials - 1) + [0.1])[:, None]
    covered = np.zeros(num_trials)
    for _ in range(1000):
        trials = generator.normal(0, 1, size=(num_trials, 3)) * scale
        pooled = pool(list(trials))
        for number, trial in enumerate(trials):
            found = process_interval(trial, pooled)
            covered[number] += found.low <= 0 <= found.high
    assert covered[-1] / 1000 >= lowest
    assert (covered[:-1] / 1000 >= 0.93).all()


def test_the_others_of_a_pool_by_hand() -> None:
    """(0.04 - 0.02) / 2 with 2 degrees of freedom remain of 0.04 / 3 with 3."""
    pooled, part = pool([[0.0, 0.2], [0.1, 0.2, 0.3]]), spread_of([0.0, 0.2])
    assert pooled is not None
    assert part is not None
    rest = pooled.without(part)
    assert (rest.variance, rest.df) == pytest.approx((0.01, 2))
    assert pooled.without(pooled) is None


@pytest.mark.parametrize("values", [[0.3, 0.3, 0.3], [0.1 + 0.2, 0.3, 0.3]])
def test_equal_processes_are_no_certainty(values: list[float]) -> None:
    """A ratio without any spread would pay with an interval of no width."""
    found = process_interval(values, pool([values, values]))
    assert (found.value, found.low) == (pytest.approx(0.3), None)
    assert "no spread" in found.reason


def test_rounds_of_one_process_do_not_cover() -> None:
    """What the pooled interval is for: an interval over rounds alone covers a third here."""
    from bench.statistics import mean_interval

    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        rounds = generator.normal(0, 0.02) + generator.normal(0, 0.01, size=6)
        found = mean_interval(rounds)
        covered += found.low <= 0 <= found.high
    assert covered / 500 < 0.5


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(-1, 1))
def test_shifting_and_order(values: list[float], shift: float) -> None:
    """Shifted values shift the interval; the order of processes does not matter."""
    found, moved = process_interval(values), process_interval([v + shift for v in values])
    assume(found.low is not None and moved.low is not None)  # equal values have no interval
    assert moved.low == pytest.approx(found.low + shift, abs=1e-9)
    again = process_interval(values[::-1])
    assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_a_difference_of_two_sets_of_processes_by_hand() -> None:
    """Variances 0.01 / 3 each: df 4, t = 2.776, half 2.776 sqrt(0.02 / 3)."""
    found = difference_interval([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    half = 2.776445 * math.sqrt(0.02 / 3)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert difference_interval([0.1], [0.2, 0.3]).low is None
    assert "no spread" in difference_interval([0.1, 0.1], [0.2, 0.2]).reason
