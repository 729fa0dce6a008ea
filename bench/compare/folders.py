"""`condbench compare BASELINE CANDIDATE`: two runs' records, metric by metric.

Time is judged relative to dense, per batch size, from the raw rounds; energy from its ratio to
dense; quality over the seeds that both have. Dense itself is each run's A/A control.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from bench.compare import sessions
from bench.compare.causes import MOVED, cause_between_sessions
from bench.compare.comparable import kernel_change, record_differences
from bench.compare.gate import ENERGY, TIME, judge
from bench.compare.quality import quality_rows
from bench.compare.sides import BadInput, Cell, Side, Trial, read_side
from bench.compare.verdict import Row, Verdict
from bench.record import Metric
from bench.statistics import ratio_interval

DENSE = "dense"
COUNTED = ("model/params", "infer/flops_per_sample")


def compare_folders(baseline: Path, candidate: Path, rerun: Path | None = None) -> Verdict:
    """The verdict on `candidate` against `baseline`, folders that `condbench run` wrote.

    `rerun` is a second run of the candidate: a regression counts only if both runs show it.
    Raises BadInput for folders that cannot be read as one machine's run or that hold the same
    records, for failed trials in the baseline, and where a rerun is not comparable.
    """
    old, new = read_side(baseline), read_side(candidate)
    second = read_side(rerun) if rerun is not None else None
    _refuse_overlap({"BASELINE": old, "CANDIDATE": new, **({"--rerun": second} if second else {})})
    _refuse_failed(old)
    verdict = _compare(old, new)
    if second is not None:
        again = _compare(old, second)
        if again.differences:
            raise BadInput(f"{rerun}: not comparable with {baseline}: {again.differences[0]}")
        verdict = _confirmed(verdict, again)
    verdict.rows = [_with_cause(row, old, new) for row in verdict.rows]
    verdict.commands = [_command(baseline, candidate, rerun)]
    return verdict


def _refuse_overlap(sides: dict[str, Side]) -> None:
    """Raise BadInput where two sides are one folder, or one lies inside the other."""
    for (one, first), (other, second) in combinations(sides.items(), 2):
        places = [side.folder.resolve() for side in (first, second)]
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise BadInput(
                f"{other} {second.folder} and {one} {first.folder} hold the same records; name "
                "the folder of another run"
            )


def _compare(old: Side, new: Side) -> Verdict:
    verdict = Verdict(_named(old), _named(new), new.hardware, canary_s=new.canary_s)
    shared = [cell for cell in old.trials if cell in new.trials]
    if not shared:
        verdict.differences.append(_nothing_shared(old, new))
        return verdict
    same: list[Cell] = []
    for cell in shared:
        found = record_differences(old.trials[cell].record, new.trials[cell].record)
        verdict.differences += [each for each in found if each not in verdict.differences]
        same += [] if found else [cell]
    for cell in same:
        verdict.rows += _rows(cell, old.trials[cell], new.trials[cell])
        verdict.changes += _counted_changes(cell, old.trials[cell], new.trials[cell])
    verdict.rows += quality_rows(same, old, new)
    verdict.rows += [_missing(cell) for cell in old.trials if cell not in new.trials]
    verdict.notes += [f"{cell}: only in the candidate" for cell in new.trials if cell not in shared]
    verdict.controls += [*_controls(old, "baseline"), *_controls(new, "candidate")]
    verdict.notes += _canary_notes(old, new)
    verdict.notes += _told_notes(same, old, new)
    verdict.notes += [
        f"{side.folder}: {side.num_older} older record(s) left out, the newest of each trial counts"
        for side in (old, new)
        if side.num_older
    ]
    return verdict


def _named(side: Side) -> str:
    return f"{side.folder}" + (f" ({side.commit[:12]})" if side.commit else "")


def _refuse_failed(side: Side) -> None:
    failed = [cell for cell, trial in side.trials.items() if trial.record.status == "failed"]
    if failed:
        reason = side.trials[failed[0]].record.reason
        raise BadInput(
            f"{side.folder}: a baseline with {len(failed)} failed trial(s), such as {failed[0]} "
            f"({reason}); run it again with retry=failed"
        )


def _nothing_shared(old: Side, new: Side) -> str:
    return (
        f"no trial in common: {len(old.trials)} in {old.folder} (such as "
        f"{next(iter(old.trials))}), {len(new.trials)} in {new.folder} (such as "
        f"{next(iter(new.trials))})"
    )


def _missing(cell: Cell) -> Row:
    reason = "the candidate has no such trial"
    return Row(str(cell), "trial", "inconclusive", reason=reason)


def _rows(cell: Cell, old: Trial, new: Trial) -> Iterator[Row]:
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


def _counted_changes(cell: Cell, old: Trial, new: Trial) -> Iterator[str]:
    """Counts that differ: not gated, because training differs, but they point at code."""
    for key in COUNTED:
        metrics = [trial.record.metrics.get(key) for trial in (old, new)]
        before, now = (metric.shown if metric else None for metric in metrics)
        if before is not None and now is not None and before != now:
            yield f"{cell} {key}: {before:,.10g} -> {now:,.10g}"


def _controls(side: Side, which: str) -> Iterator[Row]:
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


def _told_notes(cells: list[Cell], old: Side, new: Side) -> list[str]:
    """What is no difference and no row, once each: another kernel, trials that neither supports."""
    notes: dict[str, None] = {}
    for cell in cells:
        before, now = old.trials[cell].record, new.trials[cell].record
        if change := kernel_change(before, now):
            notes[f"{change}: it may change times"] = None
        if before.status == now.status == "skipped":
            notes[f"{cell}: skipped on both sides ({now.reason})"] = None
    return list(notes)


def _canary_notes(old: Side, new: Side) -> Iterator[str]:
    if old.canary_s is None or new.canary_s is None:
        yield "canary: not in both runs, so a changed machine cannot be told from changed code"
        return
    moved = new.canary_s / old.canary_s
    changed = abs(moved - 1) > MOVED
    yield (
        f"canary: {1e3 * old.canary_s:.3g} ms -> {1e3 * new.canary_s:.3g} ms a pass "
        f"({moved:.3f}x): the machine {'changed' if changed else 'is the same'}"
    )


def _confirmed(first: Verdict, again: Verdict) -> Verdict:
    """Regressions that the rerun does not repeat become what the rerun says."""
    by_name = {row.name: row for row in again.rows}
    rows = []
    for row in first.rows:
        second = by_name.get(row.name)
        if row.judgement == "regressed" and second is None:
            why = f"the rerun does not show it (first: {row.reason or 'regressed'})"
            row = replace(row, judgement="inconclusive", reason=why)
        elif row.judgement == "regressed" and second is not None:
            row = replace(row, judgement=second.judgement, rerun=second.ratio)
        rows.append(row)
    controls = [*first.controls, *again.controls]
    return replace(first, rows=rows, confirmed=True, shared_baseline=True, controls=controls)


def _with_cause(row: Row, old: Side, new: Side) -> Row:
    return replace(row, cause=cause_between_sessions(row, old.canary_s, new.canary_s))


def _command(baseline: Path, candidate: Path, rerun: Path | None) -> str:
    again = ["--rerun", str(rerun)] if rerun else []
    return shlex.join(["condbench", "compare", str(baseline), str(candidate), *again])
