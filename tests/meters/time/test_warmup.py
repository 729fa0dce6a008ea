"""Warming up on a simulated clock: until times settle, or to the cap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bench.meters.time.warmup import CAP, warm_up


def passes(clock, seconds):
    """`run(n)`: n passes that take `seconds(now)` each."""

    def run(num_passes):
        for _ in range(num_passes):
            clock.advance(seconds(clock.now))

    return run


def test_a_steady_model_warms_up_for_the_requested_time(clock):
    """Two models of 10 ms are done soon after the requested second."""
    run = passes(clock, lambda now: 0.010)
    warm = warm_up((run, run), clock, 1.0)
    assert warm.steady
    assert 1.0 <= warm.elapsed_s < 1.3
    assert warm.pass_s == pytest.approx((0.010, 0.010))


def test_it_waits_until_times_have_fallen_to_their_floor(clock):
    """A pass that starts at 110 ms and falls to 10 ms with a time constant of half a second."""
    run = passes(clock, lambda now: 0.010 + 0.100 * math.exp(-2 * now))
    warm = warm_up((run, run), clock, 0.3)
    assert warm.steady
    assert warm.elapsed_s > 2
    assert warm.pass_s == pytest.approx((0.010, 0.010), rel=0.07)


def test_one_unsettled_model_of_two_keeps_both_warming_up(clock):
    """The first model is steady at once, the second grows by 1 % with every pass for 3 s."""
    steady = passes(clock, lambda now: 0.010)
    growing = passes(clock, lambda now: 0.010 * 2 ** (4 * min(now, 3)))
    assert warm_up((steady, growing), clock, 0.3).elapsed_s > 3


def test_noise_without_a_trend_counts_as_steady(clock):
    """Passes that scatter by 30 % end within a few windows, long before the cap of 6 s."""
    noise = np.random.default_rng(0)
    run = passes(clock, lambda now: 0.010 * noise.lognormal(0, 0.3))
    warm = warm_up((run, run), clock, 0.3)
    assert warm.steady
    assert warm.elapsed_s < 1.5


def test_times_that_never_settle_end_at_the_cap_and_are_not_steady(clock):
    """Passes that each take 5 % longer end after 20 times the requested warm-up."""
    calls = itertools.count()
    run = passes(clock, lambda now: 0.001 * 1.05 ** next(calls))
    warm = warm_up((run, run), clock, 0.5)
    assert not warm.steady
    assert warm.elapsed_s >= CAP * 0.5


@pytest.mark.parametrize("drift", [0.1, 0.2, 0.5])
def test_a_drift_does_not_pass_as_noise(clock, drift):
    """Passes of 60 ms that grow by 10 % a second and more under 2 % of noise are rarely steady.

    At most 4 of 40 sessions; without the test for a trend it would be nearly all.
    """
    steady = 0
    for seed in range(40):
        noise = np.random.default_rng(seed)
        clock.now = 0.0
        run = passes(clock, lambda now: 0.06 * (1 + drift * now) * noise.lognormal(0, 0.02))  # noqa: B023
        steady += warm_up((run, run), clock, 0.3).steady
    assert steady <= 4


@pytest.mark.parametrize("scatter", [0.005, 0.02, 0.1, 0.3])
def test_noise_does_not_pass_as_a_drift(clock, scatter):
    """The same passes without a drift settle in all of 40 sessions, whatever the noise."""
    for seed in range(40):
        noise = np.random.default_rng(seed)
        clock.now = 0.0
        run = passes(clock, lambda now: 0.06 * noise.lognormal(0, scatter))  # noqa: B023
        assert warm_up((run, run), clock, 0.3).steady


def test_a_warm_up_has_at_least_ten_passes(clock):
    """However short the request: of 50 ms each, ten of both models take a second."""
    calls = itertools.count()

    def run(num_passes):
        next(calls)
        clock.advance(0.050)

    assert warm_up((run, run), clock, 0.1).steady
    assert next(calls) == 20


def test_long_passes_need_fewer_of_them(clock):
    """A pass of 2 s makes windows of three turns: 6 passes of each of two models."""
    calls = []

    def run(num_passes):
        calls.append(num_passes)
        clock.advance(2.0 * num_passes)

    assert warm_up((run, run), clock, 0.3).steady
    assert calls == [1] * 12
