"""`condbench compare BASELINE CANDIDATE`: two runs' records, metric by metric.

Time is judged relative to dense, per batch size, from the raw rounds; energy from its ratio to
dense; quality over the seeds that both runs have. Dense itself is each run's A/A control.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from bench.regress.causes import MOVED, cause_between_runs
from bench.regress.cells import Cell, model_name
from bench.regress.comparable import kernel_change, record_differences
from bench.regress.folders.rows import (
    control_rows,
    count_changes,
    fixed_count_rows,
    quality_rows,
    trial_rows,
)
from bench.regress.folders.side import Side, read_side
from bench.regress.verdict import BadInput, Row, Verdict


def compare_folders(baseline: Path, candidate: Path, rerun: Path | None = None) -> Verdict:
    """The verdict on `candidate` against `baseline`, folders that `condbench run` wrote.

    `rerun` is a second run of the candidate: a regression counts only if both runs show it.
    Raises BadInput for folders that cannot be read as one machine's run or that hold the same
    records, for failed trials in the baseline, and where a rerun is not comparable.
    """
    # Everything is read before anything is judged: bad input ends without half a verdict.
    old, new = read_side(baseline), read_side(candidate)
    second = read_side(rerun) if rerun is not None else None
    _check_no_overlap(
        {"BASELINE": old, "CANDIDATE": new, **({"--rerun": second} if second else {})}
    )
    _check_no_failures(old)
    verdict = _compare(old, new)
    if second is not None:
        again = _compare(old, second)
        # A rerun on another machine confirms nothing: bad input, not a verdict.
        if again.differences:
            raise BadInput(f"{rerun}: not comparable with {baseline}: {again.differences[0]}")
        verdict = _with_rerun(verdict, again)
    verdict.withhold_times()
    # Last: a cause belongs to the judgement that counts, after any rerun.
    canaries_s, same = (old.canary_s, new.canary_s), _unchanged(old, new)
    verdict.rows = [
        replace(row, cause=cause_between_runs(row, *canaries_s, same_code=row.model in same))
        for row in verdict.rows
    ]
    verdict.commands = [_command(baseline, candidate, rerun)]
    return verdict


def _check_no_overlap(sides: dict[str, Side]) -> None:
    """Raise BadInput where two sides are one folder, or one lies inside the other."""
    for (one, first), (other, second) in combinations(sides.items(), 2):
        # Resolved: a link to the same folder is the same records.
        places = [side.folder.resolve() for side in (first, second)]
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise BadInput(
                f"{other} {second.folder} and {one} {first.folder} hold the same records; name "
                "the folder of another run"
            )


def _check_no_failures(side: Side) -> None:
    """Raise BadInput where a trial of the baseline failed: nothing can be compared with it."""
    failed = [cell for cell, trial in side.trials.items() if trial.record.status == "failed"]
    if failed:
        reason = side.trials[failed[0]].record.reason
        raise BadInput(
            f"{side.folder}: a baseline with {len(failed)} failed trial(s), such as {failed[0]} "
            f"({reason}); run it again with retry=failed"
        )


def _compare(old: Side, new: Side) -> Verdict:
    verdict = Verdict(_title(old), _title(new), new.hardware, canary_s=new.canary_s)
    shared = [cell for cell in old.trials if cell in new.trials]  # in the baseline's order
    if not shared:
        verdict.differences.append(_no_common_trial(old, new))
        return verdict
    same: list[Cell] = []
    for cell in shared:
        found = record_differences(old.trials[cell].record, new.trials[cell].record)
        # One machine's difference stands in every record: it is listed once.
        verdict.differences += [each for each in found if each not in verdict.differences]
        same += [] if found else [cell]
    for cell in same:
        verdict.rows += trial_rows(cell, old.trials[cell], new.trials[cell])
        verdict.rows += fixed_count_rows(cell, old.trials[cell], new.trials[cell])
        verdict.changes += count_changes(cell, old.trials[cell], new.trials[cell])
    verdict.rows += quality_rows(same, old, new)
    # A trial that is gone might have regressed: inconclusive. A new one has no baseline: a note.
    verdict.rows += [_missing_row(cell) for cell in old.trials if cell not in new.trials]
    verdict.notes += [f"{cell}: only in the candidate" for cell in new.trials if cell not in shared]
    verdict.controls += [*control_rows(old, "baseline"), *control_rows(new, "candidate")]
    verdict.notes += [*_canary_notes(old, new), *_trial_notes(same, old, new)]
    verdict.notes += [
        f"{side.folder}: {side.num_older} older record(s) left out, the newest of each trial counts"
        for side in (old, new)
        if side.num_older
    ]
    return verdict


def _unchanged(old: Side, new: Side) -> set[str]:
    """Cells, and models with all their seeds, whose plugins' code is the same on both sides."""
    same, other = set[Cell](), set[Cell]()
    for cell in old.trials.keys() & new.trials.keys():
        hashes = [
            side.trials[cell].record.provenance["identity"].get("code") for side in (old, new)
        ]
        (same if hashes[0] is not None and hashes[0] == hashes[1] else other).add(cell)
    models = {cell.model for cell in same} - {cell.model for cell in other}
    return {str(cell) for cell in same} | {model_name(model) for model in models}


def _title(side: Side) -> str:
    return f"{side.folder}" + (f" ({side.commit[:12]})" if side.commit else "")


def _no_common_trial(old: Side, new: Side) -> str:
    return (
        f"no trial in common: {len(old.trials)} in {old.folder} (such as "
        f"{next(iter(old.trials))}), {len(new.trials)} in {new.folder} (such as "
        f"{next(iter(new.trials))})"
    )


def _missing_row(cell: Cell) -> Row:
    return Row(str(cell), "trial", "inconclusive", reason="the candidate has no such trial")


def _trial_notes(cells: list[Cell], old: Side, new: Side) -> list[str]:
    """What is neither a difference nor a row, once each: another kernel, skipped trials."""
    notes: dict[str, None] = {}  # a set that keeps the order
    for cell in cells:
        before, now = old.trials[cell].record, new.trials[cell].record
        if change := kernel_change(before, now):
            notes[f"{change}: it may change times"] = None
        if before.status == now.status == "skipped":
            notes[f"{cell}: skipped on both sides ({now.reason})"] = None
    return list(notes)


def _canary_notes(old: Side, new: Side) -> Iterator[str]:
    if old.canary_s is None or new.canary_s is None:
        yield "canary: not in both runs, so a changed machine cannot be separated from changed code"
        return
    moved = new.canary_s / old.canary_s
    changed = abs(moved - 1) > MOVED
    yield (
        f"canary: {1e3 * old.canary_s:.3g} ms -> {1e3 * new.canary_s:.3g} ms per pass "
        f"({moved:.3f}x): the machine {'changed' if changed else 'is the same'}"
    )


def _with_rerun(first: Verdict, again: Verdict) -> Verdict:
    """The first verdict, with the rerun's judgement for each row that had regressed."""
    by_name = {row.name: row for row in again.rows}
    rows = []
    for row in first.rows:
        second = by_name.get(row.name)  # None: the rerun has no such trial or metric
        if row.judgement == "regressed" and second is None:
            why = f"the rerun does not show it (first: {row.reason or 'regressed'})"
            row = replace(row, judgement="inconclusive", reason=why)
        elif row.judgement == "regressed" and second is not None:
            row = replace(row, judgement=second.judgement, rerun=second.ratio)
        rows.append(row)
    controls = [*first.controls, *again.controls]
    # Both runs are compared with one baseline run: its chance error is in both.
    return replace(first, rows=rows, confirmed=True, shared_baseline=True, controls=controls)


def _command(baseline: Path, candidate: Path, rerun: Path | None) -> str:
    again = ["--rerun", str(rerun)] if rerun else []
    return shlex.join(["condbench", "compare", str(baseline), str(candidate), *again])
