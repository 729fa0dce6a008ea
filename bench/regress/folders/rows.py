"""The rows of two runs: trial, time and energy relative to dense, quality, counts, A/A controls."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from bench.records import catalogue
from bench.records.reading import Found
from bench.records.record import Metric
from bench.regress.cells import Cell, model_name
from bench.regress.counts import DENSE, count_rows, is_fixed
from bench.regress.folders import relative_cost
from bench.regress.folders.side import Side, read_rounds
from bench.regress.gate import ENERGY, QUALITY, TIME, judge
from bench.regress.quality import quality_row
from bench.regress.verdict import Row

COUNTED = (catalogue.PARAMS.key, catalogue.FLOPS.key)


def trial_rows(cell: Cell, old: Found, new: Found) -> Iterator[Row]:
    """Every judged metric of one cell except quality, which needs all seeds."""
    if (before := old.record.status) != (now := new.record.status):
        worse = now != "ok"  # skipped where it was ok counts as worse, as failed does
        reason = f"{before} -> {now}: {new.record.reason}" if worse else f"{before} -> {now}"
        yield Row(str(cell), "trial", "regressed" if worse else "improved", reason=reason)
        return
    if now != "ok":
        return
    # Dense relative to dense is no metric: it is the A/A control.
    if cell.method != DENSE:
        for size in sorted({*old.batch_sizes, *new.batch_sizes}):
            yield _time_row(cell, size, old, new)
    if row := _energy_row(cell, old, new):
        yield row


def _time_row(cell: Cell, size: int, old: Found, new: Found) -> Row:
    name = f"time b{size} relative to dense"
    key = catalogue.SPEEDUP.at(size)
    # The record decides whether its timing is valid; the raw rounds alone do not show that.
    for which, trial in (("baseline", old), ("candidate", new)):
        metric = trial.record.metrics.get(key)
        if metric is None or metric.shown is None:
            reason = f"{which}: {metric.reason if metric else 'not measured'}"
            return Row(str(cell), name, "inconclusive", TIME, reason=reason)
    rounds = [read_rounds(trial, size) for trial in (old, new)]
    if rounds[0] is None or rounds[1] is None:
        return Row(str(cell), name, "inconclusive", TIME, reason="no raw rounds beside the record")
    ratio = relative_cost.session_ratio(rounds[0], rounds[1])
    # For the reader and the history: absolute times of two sessions are not judged.
    medians_s = [float(np.median(each.method_s)) for each in rounds if each]
    return Row(
        str(cell),
        name,
        judge(ratio, TIME),
        TIME,
        ratio,
        unit="s",
        baseline=medians_s[0],
        candidate=medians_s[1],
        reason=ratio.reason,
    )


def _energy_row(cell: Cell, old: Found, new: Found) -> Row | None:
    """Energy relative to dense; None for dense, and on a CPU, which has no energy counter."""
    name, key = "energy relative to dense", catalogue.ENERGY_RATIO.key
    metrics = [trial.record.metrics.get(key) for trial in (old, new)]
    missing = all(metric is None or metric.value is None for metric in metrics)
    on_cpu = all(trial.record.labels.device == "cpu" for trial in (old, new))
    if cell.method == DENSE or all(metric is None for metric in metrics) or (missing and on_cpu):
        return None
    bounds = [_bounds(metric) for metric in metrics]
    # On a GPU a missing number is a row: energy must not be green by omission.
    if bounds[0] is None or bounds[1] is None:
        which = 0 if bounds[0] is None else 1
        metric = metrics[which]
        why = (metric.reason if metric else None) or "no valid energy with its interval"
        reason = f"{('baseline', 'candidate')[which]}: {why}"
        return Row(str(cell), name, "inconclusive", ENERGY, reason=reason)
    # energy_ratio is dense / method, above 1 saves: swapped, so that above 1 costs more.
    ratio = relative_cost.independent_ratio(bounds[1], bounds[0])
    return Row(str(cell), name, judge(ratio, ENERGY), ENERGY, ratio)


def _bounds(metric: Metric | None) -> tuple[float, float, float] | None:
    """(value, low, high) of a valid metric; None where they are not positive and in order."""
    if metric is None or metric.shown is None or metric.low is None or metric.high is None:
        return None
    value = float(metric.shown)
    ordered = 0 < metric.low <= value <= metric.high < math.inf  # their logarithms are taken
    return (value, metric.low, metric.high) if ordered else None


def quality_rows(cells: Sequence[Cell], old: Side, new: Side) -> Iterator[Row]:
    """One row per model whose quality both sides measured."""
    # All seeds of a model together: the interval is over their paired differences.
    seeds: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        records = [side.trials[cell].record for side in (old, new)]
        if all(record.status == "ok" for record in records):
            seeds[cell.model].append(cell)
    for model, members in seeds.items():
        yield _quality_row(model_name(model), members, old, new)


def _quality_row(model: str, members: Sequence[Cell], old: Side, new: Side) -> Row:
    values: list[list[float]] = []  # per side, one per seed
    unit, direction = "", None
    for side in (old, new):
        found = []
        for cell in members:
            record = side.trials[cell].record
            metric = record.metrics.get(catalogue.QUALITY.key)
            # One missing seed leaves the pairs incomplete: no quality is judged.
            if metric is None or metric.shown is None or record.quality is None:
                reason = f"{cell}: no valid quality in {side.folder}"
                return Row(model, "quality", "inconclusive", QUALITY, reason=reason)
            unit, direction = metric.unit, record.quality.direction
            found.append(float(metric.shown))
        values.append(found)
    assert direction is not None
    return quality_row(model, values[0], values[1], direction, unit)


def fixed_count_rows(cell: Cell, old: Found, new: Found) -> Iterator[Row]:
    """Counts that differ and that no training changes: judged, without a control."""
    if _is_fixed(cell, old) and _is_fixed(cell, new):
        yield from count_rows(str(cell), *(_counts(trial) for trial in (old, new)))


def _is_fixed(cell: Cell, trial: Found) -> bool:
    record = trial.record
    return is_fixed(cell.method, record.config, record.diagnostics.get("routing"))


def _counts(trial: Found) -> dict[str, float | None]:
    metrics = trial.record.metrics
    return {key: metrics[key].shown for key in COUNTED if key in metrics}


def count_changes(cell: Cell, old: Found, new: Found) -> Iterator[str]:
    """Other counts that differ: not gated, because training differs, but evidence for code."""
    if _is_fixed(cell, old) and _is_fixed(cell, new):
        return
    for key in COUNTED:
        metrics = [trial.record.metrics.get(key) for trial in (old, new)]
        before, now = (metric.shown if metric else None for metric in metrics)
        if before is not None and now is not None and before != now:
            yield f"{cell} {key}: {before:,.10g} -> {now:,.10g}"


def control_rows(side: Side, which: str) -> Iterator[Row]:
    """Dense against itself, at every batch size: it must come out equal.

    In a dense trial both sides of the paired rounds are the same model.
    """
    dense = [(cell, trial) for cell, trial in side.trials.items() if cell.method == DENSE]
    # Each gap is an inconclusive row, so that a run without controls is void and not green.
    if not dense:
        yield Row(which, "A/A control", "inconclusive", TIME, reason="no dense trial, no control")
    for cell, trial in dense:
        if not trial.batch_sizes:
            name = f"A/A control, {which}"
            yield Row(str(cell), name, "inconclusive", reason="nothing was timed")
        for size in trial.batch_sizes:
            rounds = read_rounds(trial, size)
            name = f"A/A control b{size}, {which}"
            if rounds is None:
                yield Row(str(cell), name, "inconclusive", TIME, reason="no raw rounds")
                continue
            ratio = relative_cost.control_ratio(rounds)
            yield Row(str(cell), name, judge(ratio), TIME, ratio, reason=ratio.reason)
