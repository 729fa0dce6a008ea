"""Robustness: what harder inputs cost a method in FLOPs and in quality, beside dense.

one column   the clean samples, each severity (mean over the corruptions), and inputs without
             a correct answer: garbage, and samples of a kind that training never contained
one block    quality, executed FLOPs as a share of dense's on the same inputs, confidence
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.records.catalogue import (
    CONFIDENCE_UNDER,
    DENSE_QUALITY_UNDER,
    FLOPS_UNDER,
    QUALITY_UNDER,
    ROBUST_SAMPLES,
    UNSEEN_SAMPLES,
)
from bench.records.entry import Entry
from bench.records.record import Metric
from bench.report.tables.cells import aggregate, difference
from bench.report.tables.grouping import own_variant
from bench.report.tables.numbers import Text, number, plain, verdict
from bench.report.tables.numbers import difference as difference_text
from bench.report.tables.robust_cells import (
    CLEAN,
    CONDITIONS,
    SEVERITIES,
    UNANSWERABLE,
    cell_at,
    flops_share,
    quality_title,
    robust_rows,
)
from bench.report.tables.sheet import footnote_letters
from bench.report.tables.table import DENSE, Row, Table

TITLE = "Robustness"
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


def robustness(table: Table) -> Robustness | None:
    """The section of a table; None where no trial measured robustness."""
    rows = robust_rows(table)
    if not rows:
        return None
    named = [
        name for name in CONDITIONS if any(cell_at(row, CONFIDENCE_UNDER, name) for row in rows)
    ]
    if not named:  # a language model: its record has the reason alone
        reasons = (why for row in rows for why in row.cells[QUALITY_UNDER.at(CLEAN)].reasons)
        return Robustness([], [], [], list(dict.fromkeys(reasons)))
    letters: dict[str, str] = {}
    blocks = [
        Block(title, [(row.name, _texts(row, entry, named, letters)) for row in rows])
        for entry, title in _titles(table, rows).items()
    ]
    # Dense is the reference, and an upper bound searches with the targets.
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
    # FLOPs are exact, but the share of samples that exit early varies with the corruptions drawn.
    amount = "equal" if abs(changes["5"]) < SAME else "more" if changes["5"] > 0 else "fewer"
    listed = ", ".join(f"{change:+.1%} {places[name]}" for name, change in changes.items())
    return f"executes {amount} FLOPs on harder inputs ({listed})"


def _losing(table: Table, row: Row) -> str:
    """Whether quality falls less than dense's: all severities against the clean samples."""
    pairs = quality_losses(table, row)
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


def quality_losses(table: Table, row: Row) -> list[tuple[float, float]]:
    """Quality lost to corruption by the method and by its dense model, per seed that has both."""
    found = []
    # From the records, not from the row: a paired difference needs both values of each seed.
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
    cells = [cell_at(alone, entry, name) for name in (CLEAN, *SEVERITIES)]
    clean, *hard = [None if cell is None else cell.value for cell in cells]
    known = [value for value in hard if value is not None]
    if clean is None or len(known) < len(SEVERITIES):
        return None
    lost = clean - math.fsum(known) / len(known)
    return -lost if table.quality is not None and table.quality.direction == "lower" else lost
