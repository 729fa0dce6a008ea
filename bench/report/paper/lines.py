"""Each published row of the papers that records are of, with what was counted and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bench.papers.arithmetic import evaluate
from bench.papers.rows import COUNTS, DERIVED, Row, read_rows
from bench.papers.verdict import Verdict, compare
from bench.plugins import GROUPS
from bench.records.reading import Found, config_block, point_name
from bench.records.record import Metric, PointResult

EXECUTED, META, CLOSED = "executed", "meta device", "closed form"


@dataclass(frozen=True)
class Line:
    """A published row beside its count; `counted` is in the row's unit."""

    row: Row
    verdict: Verdict
    counted: Fraction | None = None
    percent: float | None = None  # of the count above the published number
    how: str = ""  # EXECUTED, META or CLOSED
    reason: str = ""  # why it is not REPRODUCED


def lines_of(found: Sequence[Found]) -> dict[str, list[Line]]:
    """The rows of every paper that records are of, by its name; {} for other records."""
    named = {paper_of(each) for each in found}
    papers = sorted({row.paper for row in read_rows()} & named)
    return {paper: compare_rows(paper, found) for paper in papers}


def compare_rows(paper: str, found: Sequence[Found]) -> list[Line]:
    """The rows of one paper, each with its record among `found` where it is there."""
    own = [each for each in found if paper_of(each) == paper]
    return [_line(row, own) for row in read_rows() if row.paper == paper]


def paper_of(found: Found) -> str:
    """The paper whose rows a trial was made for; "" for others."""
    return str(found.record.config.get("paper") or "")


def _line(row: Row, found: Sequence[Found]) -> Line:
    if not row.counted:
        return Line(row, Verdict.NOT_COMPARABLE, reason=row.remark)
    if not row.trial:  # a closed form needs no record
        return _compared(row, {}, CLOSED)
    record = match(row, found)
    if record is None:
        return Line(row, Verdict.NOT_COMPARABLE, reason=f"not run: {row.trial}")
    how = META if config_block(record.record, "measure").get("meta") else EXECUTED
    try:
        return _compared(row, _counts(row, record), how)
    except LookupError as error:
        return Line(row, Verdict.NOT_COMPARABLE, how=how, reason=str(error.args[0]))


def _compared(row: Row, counts: dict[str, Fraction], how: str) -> Line:
    counted = evaluate(row.counted, counts) / row.scale
    result = compare(row.published, counted, truncated=row.digits == "truncated")
    reason = "" if result.verdict.reproduced else row.remark
    return Line(row, result.verdict, counted, result.percent, how, reason)


def match(row: Row, found: Sequence[Found]) -> Found | None:
    """The record of the row's trial; None where there is none.

    Of several that have all the row's settings it is the one with the fewest others: a trial with
    further settings belongs to another row. Of equal ones it is the newest.
    """
    wanted = row.overrides
    # A method is no setting: without one, records of all methods on a backbone would fit.
    if not any(text.startswith("method=") for text in wanted):
        wanted.append("method=dense")
    # `variant` lists the settings that differ from defaults: its length orders them.
    fitting = [each for each in found if all(_has(each, text) for text in wanted)]
    return min(
        fitting,
        key=lambda each: (len(each.record.labels.variant), -each.started_unix_s),
        default=None,
    )


def _has(found: Found, override: str) -> bool:
    """Whether a record's trial has the setting that an override states, a choice or a value."""
    key, _, text = override.partition("=")
    if key in GROUPS:
        return bool(getattr(found.record.labels, key) == text)
    value: Any = found.record.config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return bool(value == _parsed(text))


def _parsed(text: str) -> Any:
    """A value as the command line writes it: JSON, and plain words."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _counts(row: Row, found: Found) -> dict[str, Fraction]:
    """The counts that the row needs. Raises LookupError with the reason of a missing one."""
    record = found.record
    if record.status != "ok":
        raise LookupError(f"{record.status}: {record.reason}")
    # The record's own metrics are those of the default point.
    metrics = record.metrics | (_point(row, record.points) if row.point else {})
    counts = {}
    for name in row.counts:
        base, factor = DERIVED.get(name, (name, Fraction(1)))
        counts[name] = factor * _exact(metrics.get(COUNTS[base]), COUNTS[base])
    return counts


def _point(row: Row, points: Sequence[PointResult]) -> dict[str, Metric]:
    """The metrics of the operating point that a row names."""
    for each in points:
        if point_name(each.settings) == row.point:
            return each.metrics
    raise LookupError(f"no operating point {row.point}")


def _exact(metric: Metric | None, key: str) -> Fraction:
    if metric is None or metric.shown is None:
        raise LookupError(f"{key}: {metric.reason if metric else 'not measured'}")
    return Fraction(metric.shown)
