"""Gates for joules in a record: what a damaged or impossible reading looks like afterwards."""

from __future__ import annotations

import pytest

from bench.measure.plausibility import Facts, check
from bench.records.record import Metric

ENERGY, RATIO = "infer/energy_j_per_sample", "infer/energy_ratio"


def record(mean_w=500.0, idle_w=75.0, limit_w=700.0, agreement=1.01, ratio=2.0):
    """The energy metrics of a trial, each with its unit."""
    return {
        ENERGY: Metric(value=1.25, unit="j", low=1.19, high=1.31),
        RATIO: Metric(value=ratio, unit="1", low=ratio * 0.99, high=ratio * 1.01),
        "infer/energy_mean_power_w": Metric(value=mean_w, unit="w"),
        "infer/energy_idle_power_w": Metric(value=idle_w, unit="w"),
        "infer/energy_power_limit_w": Metric(value=limit_w, unit="w"),
        "infer/energy_counter_ratio": Metric(value=agreement, unit="1"),
    }


def invalid(metrics, **facts):
    return {key for key, metric in check(metrics, Facts(**facts)).items() if metric.shown is None}


def test_a_plausible_reading_stays():
    """500 W between 75 W idle and a limit of 700 W, the counter 1 % above the power."""
    assert invalid(record()) == set()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mean_w": 59.0}, "idle"),  # below 0.8 x 75 W
        ({"mean_w": 736.0}, "limit"),  # above 1.05 x 700 W
        ({"agreement": 1.06}, "integrated"),
        ({"agreement": 0.94}, "integrated"),
    ],
)
def test_an_impossible_one_is_marked_with_its_reason(change, word):
    """Energy and ratio go, the powers that contradict them stay visible."""
    checked = check(record(**change), Facts())
    assert {key for key, metric in checked.items() if metric.shown is None} == {ENERGY, RATIO}
    assert word in checked[ENERGY].reason
    assert checked[ENERGY].reason.startswith("withheld: ")


def test_drift_within_the_limits_stays():
    """Idle power drifts with temperature, and a cap is kept only on average."""
    assert invalid(record(mean_w=61.0)) == set()
    assert invalid(record(mean_w=734.0)) == set()
    assert invalid(record(agreement=1.049)) == set()


def test_the_same_model_draws_its_own_energy():
    """An A/A interval wholly more than 2 % away from 1 shows a bias; another method's does not."""
    assert invalid(record(ratio=1.05), is_control=True) == {RATIO}
    assert invalid(record(ratio=1.02), is_control=True) == set()
    assert invalid(record(ratio=1.05), is_control=False) == set()


@pytest.mark.parametrize(
    "key",
    [
        ENERGY,
        "infer/cpu_energy_j_per_sample",
        "infer/module_energy_j_per_sample",
        "infer/energy_j_per_output_token",
        "infer/cpu_energy_j_per_output_token",
        "train/energy_j",
        "train/cpu_energy_j",
    ],
)
def test_no_energy_is_ever_0(key):
    """Of boards and packages, at training, inference and per token: withheld, whatever wrote it."""
    assert invalid({key: Metric(value=0.0, unit="j")}) == {key}
    assert invalid({key: Metric(value=0.1, unit="j")}) == set()


def test_boards_that_train_draw_more_than_idle_ones():
    """59 W in training and 75 W idle: the joules are withheld."""
    metrics = {
        "train/energy_j": Metric(value=590.0, unit="j"),
        "train/energy_mean_power_w": Metric(value=59.0, unit="w"),
        "train/energy_idle_power_w": Metric(value=75.0, unit="w"),
    }
    assert invalid(metrics) == {"train/energy_j"}
    metrics["train/energy_mean_power_w"] = Metric(value=61.0, unit="w")
    assert invalid(metrics) == set()
