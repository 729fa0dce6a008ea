"""Quality minus that of dense, sample by sample."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.measure.points.against_dense import quality_vs_dense
from bench.types import Quality

DENSE = Quality(50.0, "accuracy %", "higher", per_sample=[100.0, 100.0, 0.0, 0.0])


def test_paired_by_hand() -> None:
    """Differences 0, 0, 100, 0 of two originals: mean 25, deviations -50 and 50 by original."""
    # variance = 2/1 x (50^2 + 50^2) / 4^2 = 625; t(1, 97.5 %) = 12.7062: 25 +- 317.65
    better = replace(DENSE, value=75.0, per_sample=[100.0, 100.0, 100.0, 0.0])
    found = quality_vs_dense(better, DENSE, np.array([1, 1, 2, 2]))
    assert (found.value, found.unit, found.valid) == (25.0, "accuracy %", True)
    assert found.high == pytest.approx(25 + 25 * 12.7062, abs=0.01)


def test_the_same_answers() -> None:
    """No difference in four samples: at most 3 of 4 may differ, by 100 points each."""
    found = quality_vs_dense(DENSE, DENSE, None)
    assert (found.value, found.low, found.high) == (0.0, -75.0, 75.0)


def test_without_scores_there_is_no_interval() -> None:
    """The difference of the values stands alone, with the reason."""
    found = quality_vs_dense(replace(DENSE, value=51.0, per_sample=None), DENSE, None)
    assert (found.value, found.low, found.reason) == (
        1.0,
        None,
        "no scores per sample: no interval",
    )


def test_a_failed_evaluation_is_missing() -> None:
    """NaN is no difference."""
    found = quality_vs_dense(replace(DENSE, value=math.nan), DENSE, None)
    assert (found.value, found.valid) == (None, False)
