"""Quality by paired seeds: the same seeds on both sides, Student's t over their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench.regress.gate import QUALITY, judge
from bench.regress.verdict import Row
from bench.statistics import Interval, paired_interval

Direction = Literal["higher", "lower"]


def quality_cost(
    baseline: Sequence[float], candidate: Sequence[float], direction: Direction
) -> Interval:
    """Loss of quality as a cost ratio: 1 + (worsening / baseline's mean), paired by seed [n].

    Above 1 is worse, whichever direction the task's score has. Values that are equal seed by seed
    give exactly [1, 1]: the same seeds trained the same models. One seed that differs has no
    interval. Raises ValueError where the baseline's mean is 0.
    """
    mean = sum(baseline) / len(baseline)
    if mean == 0:
        raise ValueError("a relative change needs a baseline other than 0")
    # Without this case a single equal seed would have no interval, and never be green.
    if list(baseline) == list(candidate):
        return Interval(1.0, 1.0, 1.0, len(baseline), "identical")
    worse = (baseline, candidate) if direction == "higher" else (candidate, baseline)
    # abs: a score such as a log-likelihood may be negative, and worse must still be above 1.
    return paired_interval(*worse).map(lambda difference: 1 + difference / abs(mean))


def quality_row(
    model: str,
    baseline: Sequence[float],
    candidate: Sequence[float],
    direction: Direction,
    unit: str,
) -> Row:
    """The judged row of one model's quality over its shared seeds."""
    # Absolute values for the reader; the judgement comes from the paired differences alone.
    means = (sum(baseline) / len(baseline), sum(candidate) / len(candidate))
    try:
        ratio = quality_cost(baseline, candidate, direction)
    except ValueError as error:
        return Row(model, "quality", "inconclusive", QUALITY, reason=str(error))
    return Row(
        model,
        "quality",
        judge(ratio, QUALITY),
        QUALITY,
        ratio,
        unit=unit,
        baseline=means[0],
        candidate=means[1],
        reason=ratio.reason,
    )
