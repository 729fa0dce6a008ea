"""One method's row beside its dense model, with the trials behind both: what claims are read from.

Only the chosen operating point of a method is a case. The best of several points, chosen on test
data, would look better than it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from bench.records.catalogue import QUALITY_VS_DENSE, SPEEDUP
from bench.records.reading import Found, config_block
from bench.report.claims.outcome import Quality, exactly
from bench.report.tables.answers import row_loss, row_tolerance, row_unit
from bench.report.tables.cells import MAX_LOG, Cell
from bench.report.tables.grouping import own_variant
from bench.report.tables.table import DENSE, Row, Table
from bench.statistics.intervals import ROUNDING, Interval, mean_interval

DENSE_CLASSES = ("Dense", "ShrunkDense")  # of entry points; their named variants share them
Trials = Mapping[tuple[str, str], list[Found]]


@dataclass(frozen=True)
class Case:
    """A row that is asked about. `trials`: those behind every row, by method and variant."""

    table: Table
    row: Row
    trials: Trials

    @property
    def direction(self) -> str:
        """Which way the task's quality is better."""
        return self.table.quality.direction if self.table.quality is not None else "higher"

    @cached_property
    def sizes(self) -> list[int | None]:
        """The batch sizes that were timed; one None where none was."""
        return [*SPEEDUP.batch_sizes(self.table.keys)] or [None]

    @cached_property
    def dense(self) -> Row | None:
        """The dense model itself, whole."""
        return next((row for row in self.table.rows if row.method == DENSE and not row.point), None)

    @cached_property
    def quality(self) -> Quality:
        """The row's loss of quality against dense."""
        loss = row_loss(self.table, self.row)
        return Quality(loss, row_tolerance(self.table, self.row), row_unit(self.row))

    @property
    def own_trials(self) -> list[Found]:
        """The finished trials behind the row, one per seed."""
        return self.trials[(self.row.method, self.row.variant)]

    @property
    def dense_trials(self) -> list[Found]:
        """Those of dense."""
        return self.trials[(self.dense.method, self.dense.variant)] if self.dense else []

    def of(self, row: Row) -> Case:
        """The same question about another row of the table."""
        return replace(self, row=row)

    def control_of(self) -> str:
        """The method whose decisions the row replaces; "" where it is no such control."""
        return next((str(of) for found in self.own_trials if (of := _control(found))), "")

    def noise(self, size: int | None) -> float | None:
        """By how much identical models differed at a batch size."""
        floor = self.table.noise_floors.get(size or 0)
        return floor.value if floor is not None else None


def _control(found: Found) -> object:
    return config_block(found.record, "method").get("of")


def cases(table: Table) -> list[Case]:
    """The rows of a table that claims are asked about: all but dense, controls and further points.

    A control decides at random or in hindsight: it is what a method is compared with.
    """
    trials: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for found in table.found:
        if found.record.status == "ok":
            labels = found.record.labels
            trials[(labels.method, own_variant(labels))].append(found)
    every = [Case(table, row, trials) for row in table.rows if not row.point]
    asked = [case for case in every if case.row.method != DENSE and not case.row.is_ceiling]
    return [case for case in asked if not case.control_of()]


def is_dense(row: Row) -> bool:
    """Whether the row is a dense model, whole or shrunk: nothing in it is conditional."""
    return row.method == DENSE or row.entry_point.rpartition(":")[2] in DENSE_CLASSES


def reason_of(cell: Cell | None) -> str:
    """Why a cell has no number."""
    return "; ".join(cell.reasons) if cell is not None and cell.reasons else "not in the record"


def interval_of(cell: Cell) -> Interval:
    """A cell's value with its bounds."""
    why = None if cell.low is not None else "no interval"
    return Interval(cell.value, cell.low, cell.high, cell.num_seeds, "record", why)


def by_seed(trials: list[Found], key: str) -> dict[int, float]:
    """A metric of each seed at the chosen operating point, without missing and invalid ones."""
    found = ((each.record.labels.seed, each.record.metrics.get(key)) for each in trials)
    return {
        seed: float(metric.shown)
        for seed, metric in found
        if metric is not None and metric.shown is not None
    }


def counted_ratio(over: Mapping[int, float], under: Mapping[int, float]) -> Interval | None:
    """The mean ratio of counts over the seeds that both have; None without any.

    Exact where all seeds agree and for one seed, else with Student's t interval over seeds.
    """
    pairs = [(over[seed], under[seed]) for seed in sorted(over.keys() & under.keys())]
    # A record of strange origin may hold anything.
    if not pairs or any(not (a > 0 and b > 0) for a, b in pairs):
        return None
    logs = [math.log(a) - math.log(b) for a, b in pairs]
    if max(logs) - min(logs) <= ROUNDING:
        return exactly(_exp(logs[0]))
    return mean_interval(logs).map(_exp)


def _exp(log: float) -> float:
    return math.exp(max(-MAX_LOG, min(log, MAX_LOG)))


def quality_difference(first: Case, second: Case) -> Interval | None:
    """Quality of one row minus that of another: paired over seeds, else through dense.

    None where one has no quality. With one seed each, both differences to dense share test samples,
    so that the half widths are added: the error of a difference is at most the sum of both.
    """
    ours, theirs = first.row.quality_by_seed, second.row.quality_by_seed
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    value = math.fsum(ours[seed] - theirs[seed] for seed in shared) / len(shared)
    halves = [_half(case) for case in (first, second)]
    known = [half for half in halves if half is not None]
    through_dense = sum(known) if len(known) == len(halves) else None
    if len(shared) > 1:
        over_seeds = mean_interval([ours[seed] - theirs[seed] for seed in shared])
        if over_seeds.low is None or over_seeds.high is None:
            return over_seeds
        # As in the table: the wider of the intervals over seeds and over test samples.
        wide = (over_seeds.high - over_seeds.low) / 2
        return _around(value, max(wide, _samples(first, second)), len(shared))
    if through_dense is None:
        why = "no difference in quality to dense with an interval"
        return Interval(value, None, None, 1, "none", why)
    return _around(value, through_dense, 1)


def _samples(first: Case, second: Case) -> float:
    return sum(case.row.sample_error or 0.0 for case in (first, second))


def _around(value: float, half: float, num_seeds: int) -> Interval:
    return Interval(value, value - half, value + half, num_seeds, "through dense")


def _half(case: Case) -> float | None:
    """Half the interval of quality minus dense; 0 for dense itself."""
    if case.row.method == DENSE:
        return 0.0
    cell = case.row.cells.get(QUALITY_VS_DENSE.key)
    if cell is None or cell.low is None or cell.high is None:
        return None
    return (cell.high - cell.low) / 2
