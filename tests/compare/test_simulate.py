"""The gate on synthetic nights: its error rates, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare.simulate import STEP, Night, first_look, green_nights, one_night, outcomes

NUM_NIGHTS = 1000


@pytest.mark.parametrize("num_rounds", [20, 30])
def test_false_alarms_are_rare(num_rounds) -> None:
    """An unchanged metric alarms in at most 0.5 % of nights, before any confirmation."""
    assert first_look(0.0, num_rounds, NUM_NIGHTS) <= 0.005


@pytest.mark.parametrize(("num_rounds", "power"), [(20, 0.85), (30, 0.95)])
def test_five_percent_is_found_on_the_first_night(num_rounds, power) -> None:
    """+5 % is found in 85 % of nights with 20 rounds and in 95 % with 30, before confirmation."""
    assert first_look(STEP, num_rounds, NUM_NIGHTS) >= power


def test_confirmation_costs_little_power() -> None:
    """With rounds added and one rerun +5 % is still found in 90 % of nights."""
    found = outcomes(STEP, 500)
    assert found.confirmed >= 0.90
    assert found.suspected >= found.confirmed


def test_an_unchanged_metric_alarms_in_no_more_than_its_share() -> None:
    """With added rounds an unchanged metric is confirmed as regressed in at most 0.5 %."""
    found = outcomes(0.0, NUM_NIGHTS)
    assert found.suspected <= 0.005
    assert found.confirmed <= found.suspected


def test_an_unchanged_program_is_green() -> None:
    """Sixteen unchanged metrics are all green in 95 % of nights."""
    assert green_nights(100) >= 0.95


def test_noise_that_is_too_strong_shows() -> None:
    """The simulation is no formality: processes that differ by 10 % of their own cost power."""
    found = outcomes(STEP, 200, offset=0.10)
    assert found.confirmed < 0.90


def test_synthetic_rounds_are_what_they_claim() -> None:
    """Rounds of +5 %: the median's log ratio is log 1.05; 14 % of rounds hold an outlier."""
    rounds = np.array(Night(STEP, seed=1).more(20_000))
    assert np.median(rounds) == pytest.approx(np.log(1.05), abs=0.001)
    # One outlier of at least 8 % on either side, 2 x 0.07 = 14 %, less those that cancel
    far = np.abs(rounds - np.log(1.05)) > 3 * 0.0283  # three standard deviations of the noise
    assert 0.05 < far.mean() < 0.14


def test_the_same_seeds_give_the_same_night() -> None:
    """A night is its seed: figures do not change from run to run."""
    assert one_night(STEP, 3) == one_night(STEP, 3)
