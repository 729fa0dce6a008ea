"""The metrics of one trial on both sides: time per batch size, energy, canary, each gated.

A metric is measured in the workers that are open. A suspected change is measured once more in new
workers, trained anew, and counts only if both agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from bench.regress.counts import count_rows
from bench.regress.gate import (
    ENERGY,
    MAX_ROUNDS,
    TIME,
    GateResult,
    Margins,
    confirm,
    decide,
    is_hopeless,
    look_schedule,
    mean_ratio,
)
from bench.regress.revisions.deadline import OutOfTime
from bench.regress.revisions.paired_rounds import EnergyWindows, NoEnergy, Sides, warm_up
from bench.regress.revisions.trial_pair import Replies, TrialPair
from bench.regress.verdict import Row

CANARY = "canary"
NUM_WINDOWS, MAX_WINDOWS = 5, 10  # energy windows a side: they last seconds each
UNSETTLED = "times never settled in the warm-up"


@dataclass
class PairResult:
    """A measured pair: judged rows, the workers' replies, counts that changed."""

    rows: list[Row]
    replies: Replies
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PairedMetric:
    """One metric of a pair, and how it is measured."""

    name: str
    margins: Margins
    measure: Callable[[Sides, TrialPair], Row]

    def first_row(self, sides: Sides, pair: TrialPair) -> Row:
        """Its row before any rerun; inconclusive where the night's time ends before it."""
        try:
            return self.measure(sides, pair)
        except OutOfTime as error:
            return self._unmeasured(pair, error)

    def rerun_row(self, pair: TrialPair) -> Row:
        """Its row in new processes, trained anew."""
        try:
            with pair.opened() as (sides, _):
                return self.measure(sides, pair)
        except OutOfTime as error:
            return self._unmeasured(pair, error)

    def _unmeasured(self, pair: TrialPair, error: OutOfTime) -> Row:
        return Row(pair.name, self.name, "inconclusive", self.margins, reason=str(error))


def measure_pair(pair: TrialPair, *, canary: bool = False, timed: bool = True) -> PairResult:
    """Measure the trial in turns at every batch size; a suspected change a second time.

    Energy is measured at the largest batch size, on a GPU. `canary` adds a row for the fixed
    workload; without `timed` there are counts and qualities only. Raises WorkerFailed,
    OtherProtocol, and OutOfTime where nothing of it was measured.
    """
    with pair.opened() as (sides, replies):
        # Unsupported on one side: nothing can be timed against it.
        if any("skipped" in reply for reply in replies):
            return PairResult(_skipped_rows(pair, replies), replies)
        metrics = _metrics_of(pair, canary=canary) if timed else []
        rows = [metric.first_row(sides, pair) for metric in metrics]
    # After the first workers have ended: a rerun has the machine to itself.
    confirmed = [
        _confirm_row(row, partial(metric.rerun_row, pair))
        for row, metric in zip(rows, metrics, strict=True)
    ]
    if pair.has_fixed_counts:
        counts = [reply["counts"] for reply in replies]
        return PairResult([*count_rows(pair.name, *counts), *confirmed], replies)
    return PairResult(confirmed, replies, _count_changes(pair.name, replies))


def _metrics_of(pair: TrialPair, *, canary: bool) -> list[PairedMetric]:
    # The canary after the trial's own workloads: the machine as the trial left it.
    works = [*pair.works, *([CANARY] if canary else [])]
    metrics = [PairedMetric(f"time {work}", TIME, partial(_time_row, work=work)) for work in works]
    # Last, because windows of seconds heat the board.
    if pair.on_gpu and pair.works:
        metrics.append(PairedMetric(f"energy {pair.largest}", ENERGY, _energy_row))
    return metrics


def _time_row(sides: Sides, pair: TrialPair, work: str) -> Row:
    """The row of one workload's times before any rerun."""
    start = int(pair.measure["rounds"])
    # Per workload: another batch size has other kernels and other caches.
    rounds = warm_up(sides, work, float(pair.measure["block_ms"]))
    limit = start if pair.exact_rounds else MAX_ROUNDS
    give_up = is_hopeless if pair.is_control else None
    result = decide(rounds.measure, start, max_rounds=limit, give_up=give_up)
    row = _row(pair, f"time {work}", result, rounds.median_s)
    row = replace(row, unit="s", margins=TIME, num_looks=_max_looks(start, limit))
    return row if rounds.steady else _doubtful(row, UNSETTLED)


def _energy_row(sides: Sides, pair: TrialPair) -> Row:
    """The row of energy at the largest batch size, before any rerun."""
    work = pair.largest
    # At one size only: a window lasts seconds, and the largest batch loads the board most.
    windows = EnergyWindows(sides, work, float(pair.measure["energy_window_s"]))
    try:
        result = decide(windows.measure, NUM_WINDOWS, ENERGY, MAX_WINDOWS, mean_ratio)
    except NoEnergy as error:
        # A row, not an omission: without it the night would be green by a stuck counter.
        return Row(pair.name, f"energy {work}", "inconclusive", ENERGY, reason=str(error))
    row = _row(pair, f"energy {work}", result, windows.mean_j)
    row = replace(row, unit="j", margins=ENERGY, num_looks=_max_looks(NUM_WINDOWS, MAX_WINDOWS))
    return _doubtful(row, windows.doubt) if windows.doubt else row


def _row(pair: TrialPair, metric: str, result: GateResult, values: tuple[float, float]) -> Row:
    return Row(
        pair.name,
        metric,
        result.judgement,
        ratio=result.ratio,
        baseline=values[0],
        candidate=values[1],
        reason=result.ratio.reason,
    )


def _max_looks(start: int, max_rounds: int) -> int:
    """How often the gate may look: the error adds up over these, also over those not needed."""
    return sum(1 for _ in look_schedule(start, max_rounds))


def _doubtful(row: Row, why: str) -> Row:
    """The row with its numbers and no conclusion."""
    return replace(row, judgement="inconclusive", reason=why)


def _confirm_row(row: Row, rerun: Callable[[], Row]) -> Row:
    """The row after a rerun, if one is needed: its judgement, and the rerun's ratio."""
    final, second = confirm(row, rerun)
    if second is None:
        return row
    why = f"rerun: {second.reason}" if second.reason else row.reason
    return replace(row, judgement=final.judgement, rerun=second.ratio, reason=why)


def _skipped_rows(pair: TrialPair, replies: Replies) -> list[Row]:
    """No row where both sides are Unsupported, else the change."""
    before, now = (reply.get("skipped") for reply in replies)
    if before is not None and now is not None:
        return []
    # Support that is lost is a regression even where the reason is a good one.
    if now is not None:
        return [Row(pair.name, "trial", "regressed", reason=f"now unsupported: {now}")]
    return [Row(pair.name, "trial", "improved", reason="now supported")]


def _count_changes(name: str, replies: Replies) -> list[str]:
    """Counts that differ between the sides: evidence for code as the cause."""
    old, new = (reply["counts"] for reply in replies)
    return [
        f"{name} {key}: {_as_text(old.get(key))} -> {_as_text(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _as_text(count: float | None) -> str:
    return "none" if count is None else f"{count:,.10g}"
