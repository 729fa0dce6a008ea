"""The rows of one trial in two runs: time and energy relative to dense, counts, A/A controls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bench.records.record import Metric
from bench.regress import sessions
from bench.regress.gate import ENERGY, TIME, judge
from bench.regress.sides import Cell, Side, Trial
from bench.regress.verdict import Row
from bench.statistics import ratio_interval

DENSE = "dense"
COUNTED = ("model/params", "infer/flops_per_sample")


def trial_rows(cell: Cell, old: Trial, new: Trial) -> Iterator[Row]:
    """Every judged metric of one cell but quality, which needs all seeds."""
    if (before := old.record.status) != (now := new.record.status):
        worse = now != "ok"
        reason = f"{before} -> {now}: {new.record.reason}" if worse else f"{before} -> {now}"
        yield Row(str(cell), "trial", "regressed" if worse else "improved", reason=reason)
        return
    if now != "ok":
        return
    if cell.method != DENSE:
        for size in sorted({*old.sizes, *new.sizes}):
            yield _time_row(cell, size, old, new)
    if row := _energy_row(cell, old, new):
        yield row


def _time_row(cell: Cell, size: int, old: Trial, new: Trial) -> Row:
    name = f"time b{size} relative to dense"
    key = f"infer/speedup_b{size}"
    for which, trial in (("baseline", old), ("candidate", new)):
        metric = trial.record.metrics.get(key)
        if metric is None or metric.shown is None:
            reason = f"{which}: {metric.reason if metric else 'not measured'}"
            return Row(str(cell), name, "inconclusive", TIME, reason=reason)
    rounds = [trial.rounds(size) for trial in (old, new)]
    if rounds[0] is None or rounds[1] is None:
        return Row(str(cell), name, "inconclusive", TIME, reason="no raw rounds beside the record")
    ratio = sessions.cost_ratio(*(sessions.relative_cost(*each) for each in rounds if each))
    absolute = [float(np.median(each[0])) for each in rounds if each]
    return Row(
        str(cell),
        name,
        judge(ratio, TIME),
        TIME,
        ratio,
        unit="s",
        baseline=absolute[0],
        candidate=absolute[1],
        reason=ratio.reason,
    )


def _energy_row(cell: Cell, old: Trial, new: Trial) -> Row | None:
    """Energy relative to dense; None where neither side has a board that could tell it."""
    name, key = "energy relative to dense", "infer/energy_ratio"
    metrics = [trial.record.metrics.get(key) for trial in (old, new)]
    missing = all(metric is None or metric.value is None for metric in metrics)
    on_cpu = all(trial.record.labels.device == "cpu" for trial in (old, new))
    if cell.method == DENSE or all(metric is None for metric in metrics) or (missing and on_cpu):
        return None
    bounds = [_bounds(metric) for metric in metrics]
    if bounds[0] is None or bounds[1] is None:
        which = 0 if bounds[0] is None else 1
        metric = metrics[which]
        said = (metric.reason if metric else None) or "no valid energy with its interval"
        reason = f"{('baseline', 'candidate')[which]}: {said}"
        return Row(str(cell), name, "inconclusive", ENERGY, reason=reason)
    ratio = sessions.independent_ratio(bounds[1], bounds[0])  # dense / method: above 1 saves
    return Row(str(cell), name, judge(ratio, ENERGY), ENERGY, ratio)


def _bounds(metric: Metric | None) -> tuple[float, float, float] | None:
    if metric is None or metric.shown is None or metric.low is None or metric.high is None:
        return None
    value = float(metric.shown)
    ordered = 0 < metric.low <= value <= metric.high < math.inf
    return (value, metric.low, metric.high) if ordered else None


def counted_changes(cell: Cell, old: Trial, new: Trial) -> Iterator[str]:
    """Counts that differ: not gated, because training differs, but they point at code."""
    for key in COUNTED:
        metrics = [trial.record.metrics.get(key) for trial in (old, new)]
        before, now = (metric.shown if metric else None for metric in metrics)
        if before is not None and now is not None and before != now:
            yield f"{cell} {key}: {before:,.10g} -> {now:,.10g}"


def control_rows(side: Side, which: str) -> Iterator[Row]:
    """Dense against itself, at every batch size, must come out equal."""
    dense = [(cell, t) for cell, t in side.trials.items() if cell.method == DENSE]
    if not dense:
        yield Row(which, "A/A control", "inconclusive", TIME, reason="no dense trial, no control")
    for cell, trial in dense:
        if not trial.sizes:
            yield Row(
                str(cell), f"A/A control, {which}", "inconclusive", reason="nothing was timed"
            )
        for size in trial.sizes:
            rounds = trial.rounds(size)
            name = f"A/A control b{size}, {which}"
            if rounds is None:
                yield Row(str(cell), name, "inconclusive", TIME, reason="no raw rounds")
                continue
            ratio = ratio_interval(sessions.relative_cost(*rounds))
            yield Row(str(cell), name, judge(ratio), TIME, ratio, reason=ratio.reason)
