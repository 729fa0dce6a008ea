"""Quality by paired seeds: the same seeds on both sides, Student's t over their differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from bench.regress.gate import QUALITY, judge
from bench.regress.sides import Cell, Side, model_name
from bench.regress.verdict import Row
from bench.statistics import Interval, paired_interval

Direction = Literal["higher", "lower"]


def quality_cost(
    baseline: Sequence[float], candidate: Sequence[float], direction: Direction
) -> Interval:
    """Loss of quality as a cost ratio: 1 + (worsening / baseline's mean), paired by seed [n].

    Above 1 is worse, whichever way the task counts. Values that are equal seed by seed give
    exactly [1, 1]: the same seeds trained the same models. One seed that differs has no interval.
    Raises ValueError where the baseline's mean is 0.
    """
    mean = sum(baseline) / len(baseline)
    if mean == 0:
        raise ValueError("a relative change needs a baseline other than 0")
    if list(baseline) == list(candidate):
        return Interval(1.0, 1.0, 1.0, len(baseline), "identical")
    worse = (baseline, candidate) if direction == "higher" else (candidate, baseline)
    return paired_interval(*worse).map(lambda difference: 1 + difference / abs(mean))


def quality_row(
    model: str,
    baseline: Sequence[float],
    candidate: Sequence[float],
    direction: Direction,
    unit: str,
) -> Row:
    """The judged row of one model's quality over its shared seeds."""
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


def quality_rows(cells: Sequence[Cell], old: Side, new: Side) -> Iterator[Row]:
    """One row per model whose quality both sides measured."""
    seeds: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        records = [side.trials[cell].record for side in (old, new)]
        if all(record.status == "ok" for record in records):
            seeds[cell.model].append(cell)
    for model, members in seeds.items():
        yield _row(model_name(model), members, old, new)


def _row(model: str, members: Sequence[Cell], old: Side, new: Side) -> Row:
    values: list[list[float]] = []
    unit, direction = "", None
    for side in (old, new):
        found = []
        for cell in members:
            record = side.trials[cell].record
            metric = record.metrics.get("infer/quality")
            if metric is None or metric.shown is None or record.quality is None:
                reason = f"{cell}: no valid quality in {side.folder}"
                return Row(model, "quality", "inconclusive", QUALITY, reason=reason)
            unit, direction = metric.unit, record.quality.direction
            found.append(float(metric.shown))
        values.append(found)
    assert direction is not None
    return quality_row(model, values[0], values[1], direction, unit)
