"""When it gets hard: does a method spend more, and does it hold up better than dense?

    one column   the clean samples, each severity (mean over the corruptions), and inputs without
                 a right answer: garbage, and a class never seen
    one block    quality, executed FLOPs as a share of dense's on the same inputs, confidence

A severity has a number only where every corruption has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.records.record import Metric
from bench.report.tables.cells import Cell, aggregate, difference
from bench.report.tables.columns import footnote_letters
from bench.report.tables.grouping import own_variant
from bench.report.tables.numbers import Text, number, plain, verdict
from bench.report.tables.numbers import difference as difference_text
from bench.report.tables.rows import DENSE, Row, Table

TITLE = "When it gets hard"
SEVERITIES = ("1", "2", "3", "4", "5")
CONDITIONS = ("clean", *SEVERITIES, "garbage", "unseen")
UNANSWERABLE = ("garbage", "unseen")
QUALITY, FLOPS, CONFIDENCE = "quality", "flops_per_sample", "confidence"
SAME = 0.01  # executed FLOPs that differ by less are the same
NUM_SAMPLES, NUM_UNSEEN = "infer/num_robustness_samples", "infer/num_unseen_samples"
LEGEND = (
    "1 to 5: the same under corruptions of that severity, mean over the corruptions; garbage and "
    "unseen: no answer is right. Confidence: the mean of the largest softmax probability."
)
HELD = {"better": "holds up better than dense", "worse": "holds up worse than dense"}


@dataclass(frozen=True)
class Block:
    """One quantity of all methods: `lines` are (method, one text per condition)."""

    title: str
    lines: list[tuple[str, list[Text]]]


@dataclass(frozen=True)
class Robustness:
    """The section of one table; without conditions only its notes."""

    conditions: list[str]
    blocks: list[Block]
    answers: list[str]  # one sentence per method
    notes: list[str]


def asked_rows(table: Table) -> list[Row]:
    """The rows, at their default operating point, whose trials tried harder inputs."""
    return [row for row in table.rows if not row.point and f"infer/{QUALITY}_clean" in row.cells]


def robustness(table: Table) -> Robustness | None:
    """The section of a table; None where no trial was asked."""
    rows = asked_rows(table)
    if not rows:
        return None
    named = [name for name in CONDITIONS if any(at(row, CONFIDENCE, name) for row in rows)]
    if not named:
        reasons = (why for row in rows for why in row.cells[f"infer/{QUALITY}_clean"].reasons)
        return Robustness([], [], [], list(dict.fromkeys(reasons)))
    letters: dict[str, str] = {}
    blocks = [
        Block(title, [(row.name, _texts(row, kind, named, letters)) for row in rows])
        for kind, title in _titles(table, rows).items()
    ]
    answers = [_answer(table, row) for row in rows if row.method != DENSE and not row.is_ceiling]
    notes = [f"({letter}) {why}" for why, letter in letters.items()]
    return Robustness(named, blocks, answers, [*notes, _legend(rows)])


def _legend(rows: Sequence[Row]) -> str:
    """What the columns are; older records do not say how many samples they tried."""
    tried, never_seen = (_counts(rows, name) for name in (NUM_SAMPLES, NUM_UNSEEN))
    many = f"{tried} test samples, drawn once" if tried else "test samples"
    unseen = f" There were {never_seen} inputs of the unseen kind." if never_seen else ""
    return f"clean: {many}; {LEGEND}{unseen}"


def _counts(rows: Sequence[Row], name: str) -> str:
    """The counts of all rows: "512", or "96 or 512"."""
    counts = {row.cells[name].value for row in rows if name in row.cells}
    return " or ".join(str(round(count)) for count in sorted(c for c in counts if c is not None))


def _titles(table: Table, rows: Sequence[Row]) -> dict[str, str]:
    unit = rows[0].cells[f"infer/{QUALITY}_clean"].unit
    direction = table.quality.direction if table.quality is not None else ""
    arrow = {"higher": " \u2191", "lower": " \u2193"}.get(direction, "")
    return {
        QUALITY: (QUALITY if unit == "1" else unit) + arrow,
        FLOPS: "executed FLOPs, % of dense",
        CONFIDENCE: "confidence, %",
    }


def at(row: Row, kind: str, condition: str) -> Cell | None:
    """`kind` under a condition, a severity being the mean over the corruptions; None: not tried."""
    if condition not in SEVERITIES:
        return row.cells.get(f"infer/{kind}_{condition}")
    start, end = f"infer/{kind}_", f"_s{condition}"
    return _mean([c for k, c in row.cells.items() if k.startswith(start) and k.endswith(end)])


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
    own = at(row, FLOPS, condition)
    dense = own if row.method == DENSE else at(row, f"dense_{FLOPS}", condition)
    if own is None or own.value is None:
        return own
    if dense is None or not dense.value:
        reasons = dense.reasons if dense is not None else ()
        return Cell(None, "1", num_seeds=0, reasons=reasons or ("dense was not counted on it",))
    return replace(own, value=own.value / dense.value, unit="1")


def _texts(row: Row, kind: str, named: Sequence[str], letters: dict[str, str]) -> list[Text]:
    return [_text(row, kind, name, letters) for name in named]


def _text(row: Row, kind: str, name: str, letters: dict[str, str]) -> Text:
    cell = flops_share(row, name) if kind == FLOPS else at(row, kind, name)
    if cell is None:
        right = kind != QUALITY or name not in UNANSWERABLE
        why = "not in the record" if right else "no answer is right"
        return Text("-", marks=footnote_letters([why], letters))
    if cell.value is None:
        return Text("-", marks=footnote_letters(cell.reasons, letters))
    reasons = [f"{cell.num_seeds} of {len(row.seeds)} seeds: {why}" for why in cell.reasons]
    value = cell.value if kind == QUALITY else cell.value * 100
    return replace(plain(replace(cell, value=value)), marks=footnote_letters(reasons, letters))


def _answer(table: Table, row: Row) -> str:
    """Both questions in one sentence."""
    return f"{row.name}: {_spending(row)}; {_holding(table, row)}."


def _spending(row: Row) -> str:
    """Does it spend more when it is hard? From the clean samples to severity 5."""
    places = {"5": "at severity 5", "garbage": "on garbage", "unseen": "on an unseen class"}
    clean = at(row, FLOPS, "clean")
    changes = {}
    for name in places:
        cell = at(row, FLOPS, name)
        if clean is not None and clean.value and cell is not None and cell.value is not None:
            changes[name] = cell.value / clean.value - 1
    if "5" not in changes:
        return "what it spends when it is hard was not counted"
    how = "the same" if abs(changes["5"]) < SAME else "more" if changes["5"] > 0 else "less"
    told = ", ".join(f"{change:+.1%} {places[name]}" for name, change in changes.items())
    return f"spends {how} when it is hard (executed FLOPs {told})"


def _holding(table: Table, row: Row) -> str:
    """Does it hold up better than dense? From the clean samples to the mean of all severities."""
    pairs = _losses(table, row)
    if not pairs:
        return "whether it holds up better than dense was not measured"
    unit = row.cells[f"infer/{QUALITY}_clean"].unit
    own, dense = (math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True))
    lost = f"loses {number(own)}, dense {number(dense)} ({'quality' if unit == '1' else unit})"
    if len(pairs) == 1:
        return f"{lost}: a single seed is no claim"
    kept = difference(unit, [(-mine, -reference) for mine, reference in pairs])
    if kept.low is None:
        return f"{lost}: seeds that all say the same show no spread, which is no claim"
    text = difference_text(kept)
    how = HELD.get(verdict(kept, 0.0), "holds up like dense")
    return f"{how} ({lost}: {text.main}{text.spread} over {len(pairs)} seeds)"


def _losses(table: Table, row: Row) -> list[tuple[float, float]]:
    """Quality lost to corruption by the method and by its dense model, of every seed."""
    found = []
    for item in table.found:
        labels = item.record.labels
        if (labels.method, own_variant(labels)) != (row.method, row.variant):
            continue
        pair = [_loss(table, item.record.metrics, kind) for kind in (QUALITY, f"dense_{QUALITY}")]
        if pair[0] is not None and pair[1] is not None:
            found.append((pair[0], pair[1]))
    return found


def _loss(table: Table, metrics: dict[str, Metric], kind: str) -> float | None:
    names = [key for key in metrics if key.startswith(f"infer/{kind}_")]
    alone = Row("", "", "", (0,), aggregate([{key: metrics[key] for key in names}]), {})
    cells = [at(alone, kind, name) for name in ("clean", *SEVERITIES)]
    clean, *hard = [None if cell is None else cell.value for cell in cells]
    known = [value for value in hard if value is not None]
    if clean is None or len(known) < len(SEVERITIES):
        return None
    lost = clean - math.fsum(known) / len(known)
    return -lost if table.quality is not None and table.quality.direction == "lower" else lost
