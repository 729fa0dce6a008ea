"""Intervals: their coverage, and the reasons where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.statistics import intervals as statistics

settled = settings(deadline=None, derandomize=True, max_examples=50)
moderate = st.floats(-1, 1, allow_nan=False, width=32)


def noisy_rounds(generator: np.random.Generator, num: int, truth: float) -> np.ndarray:
    """Log ratios with 2 % noise, 7 % of them hit by a neighbour (8 to 25 %, either model)."""
    hit = (generator.random(num) < 0.07) * generator.choice([-1, 1], num)
    noise = generator.normal(0, 0.02, num) + hit * generator.uniform(0.08, 0.25, num)
    return math.log(truth) + noise


def coverage(interval, draw, truth: float, repetitions: int) -> float:
    """Share of simulated samples whose interval holds the truth."""
    found = [interval(draw()) for _ in range(repetitions)]
    return sum(each.low <= truth <= each.high for each in found) / repetitions


def test_the_ratio_is_the_exponential_of_the_median_log_ratio():
    """Log ratios of 1.0, 1.2 and 3.0 give 1.2: the outlier does not move it."""
    assert statistics.ratio_interval(np.log([1.0, 3.0, 1.2])).value == pytest.approx(1.2)


def test_fewer_than_six_rounds_have_no_interval_and_say_so():
    """Five values lie on both sides of their median with probability 1 - 2/32 = 93.75 % < 95 %."""
    five = statistics.ratio_interval([0.1] * 5)
    assert (five.low, five.high) == (None, None)
    assert "too few" in five.reason
    assert statistics.ratio_interval([0.1] * 6).low is not None


def test_below_twenty_rounds_the_interval_lies_between_order_statistics():
    """For n = 10, P(Bin(10, 1/2) <= 1) = 11/1024 per side: 2nd and 9th value hold 97.9 %."""
    interval = statistics.median_interval(np.arange(1.0, 11.0))
    assert (interval.low, interval.high) == (2.0, 9.0)
    assert interval.method == "order statistics"


def test_from_twenty_rounds_the_interval_is_the_percentile_bootstrap_of_the_median():
    """It agrees with scipy's bootstrap of the same sample to a tenth of its width."""
    sample = np.random.default_rng(1).normal(size=31)
    ours = statistics.median_interval(sample)
    theirs = stats.bootstrap((sample,), np.median, method="percentile", rng=2).confidence_interval
    tolerance = 0.1 * (theirs.high - theirs.low)
    assert ours.method == "bootstrap"
    assert ours.low == pytest.approx(theirs.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high, abs=tolerance)


@pytest.mark.parametrize("num", [10, 20])
def test_the_same_values_give_the_same_interval(num):
    """Resampling has a fixed seed, and the order of the rounds does not matter."""
    sample = noisy_rounds(np.random.default_rng(3), num, 1.1)
    assert statistics.ratio_interval(sample) == statistics.ratio_interval(sample[::-1])


@pytest.mark.parametrize(("num", "least"), [(7, 0.95), (10, 0.95), (20, 0.90), (30, 0.90)])
def test_ratio_intervals_cover_a_known_ratio(num, least):
    """On noise with outliers the 95 % interval holds the true 1.05 at least that often."""
    generator = np.random.default_rng(num)
    share = coverage(
        statistics.ratio_interval, lambda: noisy_rounds(generator, num, 1.05), 1.05, 400
    )
    assert share >= least


@settled
@given(st.lists(moderate, min_size=6, max_size=40), moderate)
def test_a_machine_twice_as_fast_changes_no_ratio(log_ratios, shift):
    """Adding a constant to every log ratio multiplies ratio and bounds by its exponential."""
    before = statistics.ratio_interval(log_ratios)
    after = statistics.ratio_interval([x + shift for x in log_ratios])
    for name in ("value", "low", "high"):
        expected = getattr(before, name) * math.exp(shift)
        assert getattr(after, name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [[], [math.nan], [1.0, math.inf]])
def test_no_interval_of_empty_or_non_finite_values(bad):
    """Empty and non-finite input is an error, not an estimate."""
    with pytest.raises(ValueError, match="interval needs"):
        statistics.ratio_interval(bad)


def test_a_quantile_needs_ten_inputs_beyond_it():
    """p50 needs 20 inputs, p90 100 and p99 1000."""
    assert [statistics.min_inputs(q) for q in (0.5, 0.9, 0.99)] == [20, 100, 1000]
    tail = statistics.quantile_interval(np.arange(999.0), 0.99)
    assert (tail.value, tail.low, tail.high) == (None, None, None)
    assert tail.reason == "p99 needs 1000 inputs, 999 were measured"


def test_a_quantile_is_one_of_the_values_with_that_share_at_or_below_it():
    """Of 100 inputs, 70 at 10 ms and 30 at 40 ms: p50 10, p90 40; p99 is refused."""
    sample = [10.0] * 70 + [40.0] * 30
    assert statistics.quantile_interval(sample, 0.5).value == 10.0
    assert statistics.quantile_interval(sample, 0.7).value == 10.0
    assert statistics.quantile_interval(sample, 0.9).value == 40.0


@pytest.mark.parametrize(("quantile", "num"), [(0.5, 64), (0.9, 256), (0.99, 1000)])
def test_quantile_intervals_cover_the_true_quantile(quantile, num):
    """Order statistics hold 95 % for a skewed distribution of latencies."""
    generator = np.random.default_rng(5)
    truth = float(stats.lognorm.ppf(quantile, 1.0))
    share = coverage(
        lambda x: statistics.quantile_interval(x, quantile),
        lambda: generator.lognormal(0, 1.0, num),
        truth,
        300,
    )
    assert share >= 0.93


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1])
def test_a_quantile_lies_between_zero_and_one(quantile):
    """The smallest and largest value are no quantiles."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.quantile_interval([1.0], quantile)


def test_the_mean_of_seeds_has_students_interval():
    """1, 2, 3: standard error 1/sqrt(3), t(0.975; 2) = 4.3027, so 2 +- 2.4841."""
    interval = statistics.mean_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    assert interval.high - 2.0 == pytest.approx(2.4841, abs=1e-4)
    assert 2.0 - interval.low == pytest.approx(2.4841, abs=1e-4)


def test_one_seed_has_a_value_and_no_interval():
    """One value has no spread."""
    interval = statistics.mean_interval([0.9])
    assert (interval.value, interval.low, interval.high) == (0.9, None, None)
    assert interval.reason


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_paired_seeds_cover_the_true_difference(num_seeds):
    """With 3 and 5 seeds the 95 % interval holds the truth in 93 to 97 of 100 cases."""
    generator = np.random.default_rng(7)

    def draw():
        common = generator.normal(0, 2.0, num_seeds)  # what a seed does to both
        return common + generator.normal(0.3, 1.0, num_seeds), common

    found = [statistics.paired_interval(*draw()) for _ in range(1500)]
    assert 0.93 <= sum(i.low <= 0.3 <= i.high for i in found) / 1500 <= 0.97


def test_pairs_need_partners():
    """Different numbers of seeds are an error."""
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.paired_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize("gains", [(0.01, 0.01), (0.0, 0.0, 0.0), (1.0, 1.0)])
def test_equal_differences_have_no_interval(gains):
    """Two seeds that gain exactly as much show no spread, and prove nothing; rounding aside."""
    base = np.array([0.90, 0.92, 0.95])[: len(gains)]
    interval = statistics.paired_interval(base + np.array(gains), base)
    assert interval.value == pytest.approx(gains[0])
    assert (interval.low, interval.high) == (None, None)
    assert "no spread" in interval.reason


def sigma(value: float, low: float, high: float) -> statistics.Interval:
    return statistics.Interval(value, low, high, 20, "bootstrap")


def test_the_realised_share_is_time_ratio_over_flop_ratio():
    """sigma 1.5 (1.4 to 1.6) at tau 2: rho 0.75 (0.7 to 0.8)."""
    rho = statistics.realised_share(sigma(1.5, 1.4, 1.6), 2.0)
    assert (rho.value, rho.low, rho.high) == pytest.approx((0.75, 0.7, 0.8))


def test_the_realised_saving_by_hand():
    """sigma 1.5, tau 2: a third of the time of half the FLOPs, (1 - 2/3) / (1 - 1/2) = 2/3."""
    saving = statistics.saving_realised(sigma(1.5, 1.25, 2.0), 2.0)
    assert (saving.value, saving.low, saving.high) == pytest.approx((2 / 3, 0.4, 1.0))


@pytest.mark.parametrize("tau", [0.8, 1.0, 1.02])
def test_no_share_of_a_saving_that_is_not_there(tau):
    """Up to tau 1.02 the saving's share is null with a reason; rho is still defined."""
    saving = statistics.saving_realised(sigma(1.5, 1.4, 1.6), tau)
    assert (saving.value, saving.low, saving.high) == (None, None, None)
    assert "saves too few FLOPs" in saving.reason
    assert statistics.realised_share(sigma(1.5, 1.4, 1.6), tau).value is not None
    assert statistics.saving_realised(sigma(1.5, 1.4, 1.6), 1.03).value is not None


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_flop_ratio_is_positive(tau):
    """A method that executed nothing has no share."""
    with pytest.raises(ValueError, match="positive"):
        statistics.realised_share(sigma(1.5, 1.4, 1.6), tau)


def test_realised_shares_cover_the_truth():
    """sigma 1.7 at tau 2, K = 20: rho's interval holds 0.85 in 90 to 98 of 100 simulations."""
    generator = np.random.default_rng(11)

    def rho(log_ratios):
        return statistics.realised_share(statistics.ratio_interval(log_ratios), 2.0)

    share = coverage(rho, lambda: noisy_rounds(generator, 20, 1.7), 0.85, 800)
    assert 0.90 <= share <= 0.98


def test_outliers_lie_beyond_three_interquartile_ranges():
    """Quartiles of 1..9 are 3 and 7: 3 x 4 beyond them is below -9 and above 19."""
    assert statistics.interquartile_range(range(1, 10)) == 4.0
    assert statistics.num_outliers([*range(1, 10)]) == 0
    assert statistics.num_outliers([1.0] * 20 + [1.1, 0.9]) == 2
