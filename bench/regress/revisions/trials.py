"""The steps of a night: the A/A control, one trial, one model's quality; rows enter the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.regress.cells import Cell
from bench.regress.checkouts.planned_trials import Content
from bench.regress.comparable import environment_differences
from bench.regress.revisions.deadline import OutOfTime
from bench.regress.revisions.metrics import CANARY, PairResult, measure_pair
from bench.regress.revisions.night import FailedTwice, Night
from bench.regress.revisions.paired_seeds import judge_quality
from bench.regress.revisions.trial_pair import QualityPair, Replies, TrialPair, train_seeds
from bench.regress.verdict import BadInput, Row


def run_control(night: Night, plan: dict[Cell, Content]) -> list[Cell]:
    """The A/A arm, the baseline against itself in two processes; the cells to measure next.

    It uses the first trial that the baseline supports. Trials that fail twice are not comparable.
    Where the arm is not equal, nothing is timed next. Raises BadInput where all trials fail.
    """
    failed: dict[Cell, FailedTwice] = {}
    rows: list[Row] = []
    for cell, content in plan.items():
        night.report_progress(f"A/A control: {cell}")
        try:
            rows = _control_rows(night, cell, content)
        except FailedTwice as error:
            failed[cell] = error
        except OutOfTime as error:
            rows = [Row(str(cell), "time", "inconclusive", reason=str(error))]
        # No row: the trial is Unsupported, and the next one is tried.
        if rows:
            break
    if len(failed) == len(plan):
        first = next(iter(failed.values()))
        raise BadInput(f"a trial of the baseline fails: {first}") from first
    for cell, failure in failed.items():
        night.add_failure(str(cell), "trial", failure)
    if not rows:
        night.verdict.notes.append("the baseline supports none of the trials: no control")
    enter_controls(night, rows)
    return [cell for cell in plan if cell not in failed] if rows else []


def enter_controls(night: Night, rows: Sequence[Row]) -> None:
    """Enter the rows of the A/A arm, with a note where they rule out timing."""
    night.verdict.controls += [replace(r, metric=f"A/A control, {r.metric}") for r in rows]
    if rows and not night.verdict.is_controlled:
        night.verdict.notes.append(
            "the A/A control is not equal: counts and qualities were compared, nothing was timed"
        )


def _control_rows(night: Night, cell: Cell, content: Content) -> list[Row]:
    def measure() -> list[Row]:
        with night.device(content) as variables:
            sides = (night.old, night.old)
            return measure_pair(night.trial_pair(cell, sides, (content, content), variables)).rows

    return night.try_twice(f"A/A control, {cell}", measure)


def measure_trial(night: Night, cell: Cell, contents: tuple[Content, Content]) -> None:
    """Measure one trial in turns; its rows go into the verdict. A failing worker has two tries."""
    verdict = night.verdict
    # Entered one by one, so that a night that is interrupted by its limit keeps its rows.
    try:
        pair, result = night.try_twice(str(cell), lambda: _measure(night, cell, contents))
    except FailedTwice as error:
        night.add_failure(str(cell), "trial", error)
        return
    except OutOfTime as error:
        verdict.rows.append(Row(str(cell), "trial", "inconclusive", reason=str(error)))
        return
    for row in result.rows:
        # The canary is a control of the two processes, not a metric of this trial.
        if row.metric == f"time {CANARY}":
            verdict.canary = replace(row, metric="canary, candidate's process / baseline's")
            verdict.canary_s = row.candidate
        else:
            verdict.rows.append(row)
            night.report_progress(f"  {row.metric}: {row.judgement}")
    verdict.changes += result.changes
    if all("skipped" in reply for reply in result.replies):
        why = result.replies[1]["skipped"]
        verdict.notes.append(f"{cell}: skipped on both sides ({why})")
    # Judged later, with this model's other seeds.
    if all("quality" in reply for reply in result.replies):
        _compare_replies(night, cell, pair, result.replies)


def _measure(
    night: Night, cell: Cell, contents: tuple[Content, Content]
) -> tuple[TrialPair, PairResult]:
    """The trial measured in turns; the canary with the first trial that is timed."""
    with night.device(contents[0]) as variables:
        pair = night.trial_pair(cell, (night.old, night.new), contents, variables)
        # Without an equal control no time would count; counts and qualities need none.
        timed = night.verdict.is_controlled
        return pair, measure_pair(pair, canary=night.verdict.canary is None, timed=timed)


def _compare_replies(night: Night, cell: Cell, pair: TrialPair, replies: Replies) -> None:
    """Enter differences of the workers' environments; keep the qualities if they are comparable."""
    # An older revision reports less of its environment: a field of one side only is not compared.
    environments = [reply["environment"] for reply in replies]
    both = environments[0].keys() & environments[1].keys()
    found = environment_differences(*({key: each[key] for key in both} for each in environments))
    # Per cent against nats would be a huge change of quality, and is none.
    for name in ("quality_unit", "direction"):
        if replies[0][name] != replies[1][name]:
            found.append(f"{cell}: {name} {replies[0][name]} -> {replies[1][name]}")
            break
    else:
        night.trained[cell.model].append((pair, replies))
    verdict = night.verdict
    verdict.differences += [each for each in found if each not in verdict.differences]


def measure_quality(night: Night, model: str, trained: Sequence[tuple[TrialPair, Replies]]) -> None:
    """The row of one model's quality, with further seeds where one differs."""
    pair = trained[0][0]

    def train(seeds: Sequence[int]) -> list[QualityPair]:
        def measure() -> list[QualityPair]:
            # Claimed anew: the trial's own claim ended with it, and may have been another GPU.
            with night.device(pair.contents[0]) as variables:
                return train_seeds(replace(pair, variables=variables), seeds)

        night.report_progress(f"{model}: quality differs, training further seeds")
        return night.try_twice(f"{model}, other seeds", measure)

    try:
        night.verdict.rows.append(judge_quality(model, trained, train))
    except FailedTwice as error:
        night.add_failure(model, "quality", error)
    except OutOfTime as error:
        row = Row(model, "quality", "inconclusive", reason=f"differs; {error}")
        night.verdict.rows.append(row)
