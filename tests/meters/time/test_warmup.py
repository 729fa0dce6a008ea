"""Warming up on a simulated clock: until times settle, or to the cap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bench.meters.time.paired import compare
from bench.meters.time.warmup import CAP, WarmUp, stays_steady, warm_up


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


def test_a_long_first_pass_is_no_warm_up(clock):
    """A first pass of 5 s (it compiles) leaves the requested time to the passes after it."""
    calls = itertools.count()

    def run(num_passes):
        clock.advance(5.0 if next(calls) < 2 else 0.010 + 0.010 * math.exp(-(clock.now - 10) / 0.2))

    warm = warm_up((run, run), clock, 1.0)
    assert warm.steady
    assert warm.elapsed_s >= 10 + 1.0
    assert warm.pass_s == pytest.approx((0.010, 0.010), rel=0.02)


WARM = WarmUp(True, 1.0, (0.010, 0.020))


@pytest.mark.parametrize(
    ("candidate", "steady"),
    [
        ([0.010] * 20, True),
        ([0.011, 0.009] * 10, True),  # noise
        ([0.0095] * 20, True),  # blocks of one model are a little faster than turns
        ([0.010] * 10 + [0.005] * 10, False),  # the slow start ends inside the rounds
        ([0.005] * 20, False),  # or between the warm-up and the first round
        ([0.010] * 18 + [0.005] * 2, True),  # two odd rounds are outliers
        ([0.010 * 0.99**k for k in range(20)], False),  # it still falls, by 1 % a round
        ([0.020] * 20, False),  # the clocks fell
        ([0.005] * 5, True),  # too few rounds to tell
    ],
)
def test_rounds_show_a_start_that_was_slower_than_the_whole_warm_up(candidate, steady):
    """The warm-up saw the same slow time throughout and called it steady."""
    assert stays_steady(WARM, (candidate, [0.020] * len(candidate))) is steady
    assert not stays_steady(WarmUp(False, 1.0, (0.010, 0.020)), (candidate, candidate))


@pytest.mark.parametrize("scatter", [0.005, 0.02, 0.1])
def test_noise_in_rounds_is_no_slow_start(scatter):
    """At most 8 of 200 sessions without any drift lose their mark."""
    lost = 0
    for seed in range(200):
        noise = np.random.default_rng(seed)
        rounds = [[each * noise.lognormal(0, scatter) for _ in range(20)] for each in WARM.pass_s]
        lost += not stays_steady(WARM, rounds)
    assert lost <= 8


def test_a_comparison_says_that_a_slow_start_reached_into_its_rounds(clock):
    """A plateau of 50 ms for three seconds, ten times the warm-up, then 10 ms."""

    def model(batch):
        clock.advance(0.050 if clock.now < 3 else 0.010)

    def other(batch):
        clock.advance(0.020)

    batches = [torch.zeros(1)]
    settings = {"rounds": 20, "warmup_s": 0.3, "block_ms": 50, "stopwatch": clock}
    assert not compare(model, other, batches, read_state=lambda: None, **settings).steady
    assert compare(other, other, batches, read_state=lambda: None, **settings).steady
