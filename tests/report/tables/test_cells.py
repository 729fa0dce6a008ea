"""Several seeds of one metric become one number with an honest interval."""

from __future__ import annotations

import math

import pytest

from bench.records.record import Metric, missing
from bench.report.tables.cells import aggregate, difference


def seeds(key: str, *values: float | None) -> list[dict[str, Metric]]:
    """One dictionary of metrics per seed; None is a missing value."""
    return [
        {key: missing("1", "too noisy") if v is None else Metric(value=v, unit="1")} for v in values
    ]


def test_one_seed_keeps_its_own_interval():
    """The interval of a single trial's paired rounds stands."""
    only = {"infer/speedup_b1": Metric(value=1.5, unit="1", low=1.4, high=1.7)}
    cell = aggregate([only])["infer/speedup_b1"]
    assert (cell.value, cell.low, cell.high, cell.num_seeds) == (1.5, 1.4, 1.7, 1)


def test_quality_is_a_mean_with_students_interval():
    """0.1, 0.2, 0.3: mean 0.2; sd 0.1, so 4.3027 * 0.1 / sqrt(3) = 0.24841 to each side."""
    cell = aggregate(seeds("infer/quality", 0.1, 0.2, 0.3))["infer/quality"]
    assert cell.value == pytest.approx(0.2)
    assert (cell.low, cell.high) == pytest.approx((0.2 - 0.24841, 0.2 + 0.24841), abs=1e-5)


@pytest.mark.parametrize("key", ["infer/speedup_b64", "infer/ttft_speedup_b1"])
def test_ratios_are_averaged_as_logarithms(key: str):
    """2x in one seed and 0.5x in another is 1x on average, not 1.25x."""
    cell = aggregate(seeds(key, 2.0, 0.5))[key]
    assert cell.value == pytest.approx(1.0)
    assert cell.low is not None
    assert cell.high == pytest.approx(1 / cell.low)


def test_other_metrics_are_plain_means():
    """Two training times of 1 s and 3 s are 2 s, without an interval."""
    cell = aggregate(seeds("train/time_s", 1.0, 3.0))["train/time_s"]
    assert (cell.value, cell.low, cell.high, cell.num_seeds) == (2.0, None, None, 2)


def test_missing_seeds_are_counted_out_and_explained():
    """The mean is over the seeds that have the number, with the reason of the one that lacks it."""
    cell = aggregate(seeds("train/time_s", 1.0, None, 3.0))["train/time_s"]
    assert (cell.value, cell.num_seeds, cell.reasons) == (2.0, 2, ("too noisy",))


def test_a_metric_that_one_record_lacks_is_explained():
    """A key that is absent from one record is missing there."""
    cell = aggregate([{}, *seeds("train/time_s", 3.0)])["train/time_s"]
    assert (cell.value, cell.reasons) == (3.0, ("not in the record",))


def test_without_a_valid_value_there_is_no_number():
    """Not 0; each reason stands once."""
    cell = aggregate(seeds("infer/quality", None, None))["infer/quality"]
    assert (cell.value, cell.num_seeds, cell.reasons) == (None, 0, ("too noisy",))


def test_an_infinite_bound_is_no_interval():
    """JSON's Infinity as a bound does not enter a table."""
    # No record can hold it any more; a table is made of whatever was read.
    only = {"infer/speedup_b1": Metric.model_construct(value=1.5, unit="1", low=1.4, high=math.inf)}
    assert aggregate([only])["infer/speedup_b1"].high is None


def test_differences_are_paired_by_seed():
    """Differences 0.1 and 0.2: standard error 0.05, t(0.975; 1) = 12.706, so 0.15 +- 0.6353."""
    cell = difference("accuracy", [(0.9, 0.8), (0.8, 0.6)])
    assert (cell.value, cell.low, cell.high) == pytest.approx((0.15, -0.4853, 0.7853), abs=1e-4)


def test_equal_differences_are_no_certainty():
    """0.1 in both seeds: a mean without an interval."""
    cell = difference("accuracy", [(0.9, 0.8), (0.7, 0.6)])
    assert (cell.value, cell.low, cell.high) == (pytest.approx(0.1), None, None)
