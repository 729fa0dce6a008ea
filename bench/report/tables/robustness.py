"""Robustness: what harder inputs cost a method in FLOPs and in quality, beside dense.

    one column   the clean samples, each severity (mean over the corruptions), and inputs without
                 a correct answer: garbage, and samples of a kind that training never contained
    one block    quality, executed FLOPs as a share of dense's on the same inputs, confidence

A severity has a number only where every corruption has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.records.catalogue import (
    CONFIDENCE_UNDER,
    DENSE_FLOPS_UNDER,
    DENSE_QUALITY_UNDER,
    FLOPS_UNDER,
    QUALITY_UNDER,
    ROBUST_SAMPLES,
    UNSEEN_SAMPLES,
)
from bench.records.entry import Entry
from bench.records.record import Metric
from bench.report.tables.cells import Cell, aggregate, difference
from bench.report.tables.grouping import own_variant
from bench.report.tables.numbers import Text, number, plain, verdict
from bench.report.tables.numbers import difference as difference_text
from bench.report.tables.sheet import footnote_letters
from bench.report.tables.table import DENSE, Row, Table

TITLE = "Robustness"
CLEAN, SEVERITIES, UNANSWERABLE = "clean", ("1", "2", "3", "4", "5"), ("garbage", "unseen")
CONDITIONS = (CLEAN, *SEVERITIES, *UNANSWERABLE)
SAME = 0.01  # executed FLOPs that differ by a smaller share count as equal
LEGEND = (
    "1 to 5: the same under corruptions of that severity, mean over the corruptions; garbage and "
    "unseen: inputs without a correct answer. Confidence: the mean of the largest softmax "
    "probability."
)
LOSSES = {"better": "loses less quality than dense", "worse": "loses more quality than dense"}


@dataclass(frozen=True)
class Block:
    """One quantity of all methods: `lines` are (method, one text per condition)."""

    title: str
    lines: list[tuple[str, list[Text]]]


@dataclass(frozen=True)
class Robustness:
    """The section of one table; without conditions it consists of notes."""

    conditions: list[str]
    blocks: list[Block]
    findings: list[str]  # one sentence per method
    notes: list[str]


def robust_rows(table: Table) -> list[Row]:
    """The rows, at their default operating point, whose trials measured robustness."""
    return [row for row in table.rows if not row.point and QUALITY_UNDER.at(CLEAN) in row.cells]


def robustness(table: Table) -> Robustness | None:
    """The section of a table; None where no trial measured robustness."""
    rows = robust_rows(table)
    if not rows:
        return None
    named = [
        name for name in CONDITIONS if any(cell_at(row, CONFIDENCE_UNDER, name) for row in rows)
    ]
    if not named:
        reasons = (why for row in rows for why in row.cells[QUALITY_UNDER.at(CLEAN)].reasons)
        return Robustness([], [], [], list(dict.fromkeys(reasons)))
    letters: dict[str, str] = {}
    blocks = [
        Block(title, [(row.name, _texts(row, entry, named, letters)) for row in rows])
        for entry, title in _titles(table, rows).items()
    ]
    methods = [row for row in rows if row.method != DENSE and not row.is_ceiling]
    findings = [f"{row.name}: {_spending(row)}; {_losing(table, row)}." for row in methods]
    notes = [f"({letter}) {why}" for why, letter in letters.items()]
    return Robustness(named, blocks, findings, [*notes, _legend(rows)])


def _legend(rows: Sequence[Row]) -> str:
    """The meaning of the columns. Older records lack the numbers of samples."""
    tested, unseen = (_counts(rows, entry.key) for entry in (ROBUST_SAMPLES, UNSEEN_SAMPLES))
    clean = f"{tested} test samples, drawn once" if tested else "test samples"
    more = f" Unseen: {unseen} samples." if unseen else ""
    return f"clean: {clean}; {LEGEND}{more}"


def _counts(rows: Sequence[Row], key: str) -> str:
    """The counts of all rows: "512", or "96 or 512"."""
    counts = {count for row in rows if (count := row.value(key)) is not None}
    return " or ".join(str(round(count)) for count in sorted(counts))


def _titles(table: Table, rows: Sequence[Row]) -> dict[Entry, str]:
    direction = table.quality.direction if table.quality is not None else ""
    arrow = {"higher": " \u2191", "lower": " \u2193"}.get(direction, "")
    return {
        QUALITY_UNDER: quality_title(rows) + arrow,
        FLOPS_UNDER: "executed FLOPs, % of dense",
        CONFIDENCE_UNDER: "confidence, %",
    }


def quality_title(rows: Sequence[Row]) -> str:
    """The task's unit; "quality" where it has none."""
    unit = rows[0].cells[QUALITY_UNDER.at(CLEAN)].unit
    return "quality" if unit == "1" else unit


def cell_at(row: Row, entry: Entry, condition: str) -> Cell | None:
    """A metric under a condition: at a severity, the mean over the corruptions.

    None where it was not measured.
    """
    if condition not in SEVERITIES:
        return row.cells.get(entry.at(condition))
    at_severity = ((entry.match(key), cell) for key, cell in row.cells.items())
    return _mean(
        [cell for slots, cell in at_severity if slots and slots[0].endswith(f"_s{condition}")]
    )


def _mean(cells: Sequence[Cell]) -> Cell | None:
    if not cells:
        return None
    reasons = tuple(dict.fromkeys(why for cell in cells for why in cell.reasons))
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < len(cells):
        return Cell(None, cells[0].unit, num_seeds=0, reasons=reasons)
    value = math.fsum(value / len(values) for value in values)
    return Cell(value, cells[0].unit, num_seeds=min(c.num_seeds for c in cells), reasons=reasons)


def flops_share(row: Row, condition: str) -> Cell | None:
    """Executed FLOPs over those of the dense model on the same inputs; 1 for dense itself."""
    own = cell_at(row, FLOPS_UNDER, condition)
    dense = own if row.method == DENSE else cell_at(row, DENSE_FLOPS_UNDER, condition)
    if own is None or own.value is None:
        return own
    if dense is None or not dense.value:
        reasons = dense.reasons if dense is not None else ()
        return Cell(
            None, "1", num_seeds=0, reasons=reasons or ("the FLOPs of dense were not counted",)
        )
    return replace(own, value=own.value / dense.value, unit="1")


def _texts(row: Row, entry: Entry, named: Sequence[str], letters: dict[str, str]) -> list[Text]:
    return [_text(row, entry, name, letters) for name in named]


def _text(row: Row, entry: Entry, name: str, letters: dict[str, str]) -> Text:
    cell = flops_share(row, name) if entry is FLOPS_UNDER else cell_at(row, entry, name)
    if cell is None:
        is_answerable = entry is not QUALITY_UNDER or name not in UNANSWERABLE
        why = "not in the record" if is_answerable else "no correct answer"
        return Text("-", marks=footnote_letters([why], letters))
    if cell.value is None:
        return Text("-", marks=footnote_letters(cell.reasons, letters))
    reasons = [f"{cell.num_seeds} of {len(row.seeds)} seeds: {why}" for why in cell.reasons]
    value = cell.value if entry is QUALITY_UNDER else cell.value * 100  # shares in percent
    return replace(plain(replace(cell, value=value)), marks=footnote_letters(reasons, letters))


def _spending(row: Row) -> str:
    """Whether harder inputs cost more FLOPs: severity 5 against the clean samples."""
    places = {"5": "at severity 5", "garbage": "on garbage", "unseen": "on an unseen kind"}
    clean = cell_at(row, FLOPS_UNDER, CLEAN)
    changes = {}
    for name in places:
        cell = cell_at(row, FLOPS_UNDER, name)
        if clean is not None and clean.value and cell is not None and cell.value is not None:
            changes[name] = cell.value / clean.value - 1
    if "5" not in changes:
        return "FLOPs on harder inputs were not counted"
    amount = "equal" if abs(changes["5"]) < SAME else "more" if changes["5"] > 0 else "fewer"
    listed = ", ".join(f"{change:+.1%} {places[name]}" for name, change in changes.items())
    return f"executes {amount} FLOPs on harder inputs ({listed})"


def _losing(table: Table, row: Row) -> str:
    """Whether quality falls less than dense's: all severities against the clean samples."""
    pairs = _losses(table, row)
    if not pairs:
        return "loss of quality was not measured"
    unit = quality_title([row])
    own, dense = (math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True))
    lost = f"loses {number(own)}, dense {number(dense)} ({unit})"
    if len(pairs) == 1:
        return f"{lost}: a single seed supports no claim"
    # A loss is a cost: its sign is turned so that "better" means a smaller one.
    kept = difference(unit, [(-mine, -reference) for mine, reference in pairs])
    if kept.low is None:
        return f"{lost}: equal differences in all seeds show no spread and support no claim"
    text = difference_text(kept)
    how = LOSSES.get(verdict(kept, 0.0), "no clear difference from dense in lost quality")
    return f"{how} ({lost}: {text.main}{text.spread} over {len(pairs)} seeds)"


def _losses(table: Table, row: Row) -> list[tuple[float, float]]:
    """Quality lost to corruption by the method and by its dense model, per seed that has both."""
    found = []
    for item in table.found:
        labels = item.record.labels
        if (labels.method, own_variant(labels)) != (row.method, row.variant):
            continue
        own, dense = (
            _loss(table, item.record.metrics, entry)
            for entry in (QUALITY_UNDER, DENSE_QUALITY_UNDER)
        )
        if own is not None and dense is not None:
            found.append((own, dense))
    return found


def _loss(table: Table, metrics: dict[str, Metric], entry: Entry) -> float | None:
    """Clean quality minus the mean over all severities; None unless all of them were measured."""
    own = {key: metric for key, metric in metrics.items() if entry.match(key) is not None}
    alone = Row("", "", "", (0,), aggregate([own]), {})  # one seed by itself
    values = [
        cell.value if (cell := cell_at(alone, entry, name)) else None
        for name in (CLEAN, *SEVERITIES)
    ]
    clean, *hard = values
    known = [value for value in hard if value is not None]
    if clean is None or len(known) < len(SEVERITIES):
        return None
    lost = clean - math.fsum(known) / len(known)
    return -lost if table.quality is not None and table.quality.direction == "lower" else lost
