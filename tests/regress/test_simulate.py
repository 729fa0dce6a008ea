"""The gate on synthetic nights: its error rates, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest

from bench.regress import simulate
from bench.regress.nightly import nightly
from bench.regress.simulate import (
    STEP,
    MetricShares,
    NightShares,
    SyntheticMetric,
    error_rates,
    first_look_alarms,
    gate_metric,
    simulate_metric,
    simulate_nights,
)

NUM_NIGHTS = 1000


@pytest.mark.parametrize("num_rounds", [20, 30])
def test_false_alarms_are_rare(num_rounds) -> None:
    """An unchanged metric alarms in at most 0.5 % of nights, before any confirmation."""
    assert first_look_alarms(0.0, num_rounds, NUM_NIGHTS) <= 0.005


@pytest.mark.parametrize(("num_rounds", "power"), [(20, 0.85), (30, 0.95)])
def test_five_percent_is_found_on_the_first_night(num_rounds, power) -> None:
    """+5 % is found in 85 % of nights with 20 rounds and in 95 % with 30, before confirmation."""
    assert first_look_alarms(STEP, num_rounds, NUM_NIGHTS) >= power


def test_confirmation_costs_little_power() -> None:
    """With rounds added and one rerun +5 % is still found in 90 % of nights."""
    found = simulate_metric(STEP, 500)
    assert found.confirmed >= 0.90
    assert found.suspected >= found.confirmed


def test_an_unchanged_metric_alarms_in_no_more_than_its_share() -> None:
    """With added rounds an unchanged metric is confirmed as regressed in at most 0.5 %."""
    found = simulate_metric(0.0, NUM_NIGHTS)
    assert found.suspected <= 0.005
    assert found.confirmed <= found.suspected


def test_an_unchanged_program_is_green() -> None:
    """In 95 % of nights sixteen unchanged metrics are green and the controls are equal."""
    ends = simulate_nights(100)
    assert ends.green >= 0.95
    assert ends.green + ends.void + ends.red <= 1


@pytest.mark.parametrize(
    ("controls", "canary", "metrics", "end"),
    [
        (["equal", "equal"], "inconclusive", ["equal", "improved"], "green"),
        (["equal", "improved"], "equal", ["equal"], "void"),
        (["equal", "inconclusive"], "equal", ["regressed"], "void"),
        (["equal"], "improved", ["equal"], "void"),
        (["equal"], "equal", ["equal", "regressed"], "red"),
        (["equal"], "equal", ["equal", "inconclusive"], "inconclusive"),
    ],
)
def test_a_simulated_night_ends_as_a_real_one(controls, canary, metrics, end) -> None:
    """A control that is not equal, or a canary that differs, voids the night: Verdict.outcome."""
    assert simulate._end(metrics, controls, canary) == end


@pytest.mark.parametrize(
    ("first", "both", "ends", "missed"),
    [
        ((0.0, 0.99), (0.99, 0.95), (0.99, 0.01, 0.0), []),
        ((0.006, 0.99), (0.99, 0.95), (0.99, 0.01, 0.0), ["false alarms", "false alarms"]),
        ((0.0, 0.94), (0.99, 0.95), (0.99, 0.01, 0.0), ["power at K=30"]),
        ((0.0, 0.99), (0.99, 0.89), (0.99, 0.01, 0.0), ["power after confirmation"]),
        ((0.0, 0.99), (0.99, 0.95), (0.94, 0.06, 0.0), ["green nights"]),
    ],
)
def test_a_target_that_is_missed_is_exit_code_1(
    first, both, ends, missed, monkeypatch, capsys
) -> None:
    """The command fails where a target is missed, and names it; processes that differ have none."""

    def outcome(change: float, *_: object, offset: float = 0.0) -> MetricShares:
        suspected, confirmed = both if change else (0.0, 0.0)
        return MetricShares(suspected, 0.5 * confirmed if offset else confirmed, 1.0)

    def end(_: int, offset: float) -> NightShares:
        return NightShares(0.5, 0.5, 0.0) if offset else NightShares(*ends)

    monkeypatch.setattr(simulate, "first_look_alarms", lambda change, *_: first[1 if change else 0])
    monkeypatch.setattr(simulate, "simulate_metric", outcome)
    monkeypatch.setattr(simulate, "simulate_nights", end)
    assert [name for figure in error_rates() for name in figure.missed] == missed
    assert nightly([], simulate=True) == (1 if missed else 0)
    assert ("missed: " in capsys.readouterr().out) == bool(missed)


def test_noise_that_is_too_strong_costs_power() -> None:
    """The simulation can miss its targets: processes that differ by 10 % lower the power."""
    found = simulate_metric(STEP, 200, offset=0.10)
    assert found.confirmed < 0.90


def test_synthetic_rounds_have_the_stated_distribution() -> None:
    """Rounds of +5 %: the median's log ratio is log 1.05; 14 % of rounds hold an outlier."""
    rounds = np.array(SyntheticMetric(STEP, seed=1).measure(20_000))
    assert np.median(rounds) == pytest.approx(np.log(1.05), abs=0.001)
    # One outlier of at least 8 % on either side, 2 x 0.07 = 14 %, less those that cancel
    far = np.abs(rounds - np.log(1.05)) > 3 * 0.0283  # three standard deviations of the noise
    assert 0.05 < far.mean() < 0.14


def test_the_same_seeds_give_the_same_night() -> None:
    """A night is determined by its seed: figures do not change from run to run."""
    assert gate_metric(STEP, 3) == gate_metric(STEP, 3)
