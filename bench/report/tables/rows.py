"""Records become tables of rows: the numbers of each row and the notes of each table.

    one row     one method with its variant at one operating point, over its seeds

`grouping` decides which trials share a table and which of them count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bench.records.catalogue import FLOPS_SHARE, QUALITY, QUALITY_VS_DENSE
from bench.records.reading import Found, config_block, point_name
from bench.records.record import DEPENDS_ON_BATCH, UPPER_BOUND, Metric
from bench.report.tables.cells import aggregate, at_least, difference
from bench.report.tables.equal_training import with_best_sizes
from bench.report.tables.grouping import TableKey, current_trials, own_variant, subtitles, table_key
from bench.report.tables.notes import table_notes, unfinished_line
from bench.report.tables.processes import with_pooled_intervals
from bench.report.tables.table import DENSE, Row, Table
from bench.report.tables.untrusted import entry_of, number_of


def tables(found: Iterable[Found]) -> list[Table]:
    """All tables of these records, ordered by hardware, task, backbone and profile."""
    groups: dict[TableKey, list[Found]] = defaultdict(list)
    for item in found:
        groups[table_key(item)].append(item)
    names = subtitles(groups)
    made = [(key, _table(key, groups[key], names[key])) for key in sorted(groups)]
    return with_best_sizes(made)


def _table(key: TableKey, group: Sequence[Found], subtitle: str) -> Table:
    trials: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for item in group:
        trials[(item.record.labels.method, own_variant(item.record.labels))].append(item)
    names: list[tuple[str, str]] = []  # of each kept trial
    kept: list[Found] = []
    left_out: list[str] = []
    # Dense first: it is the reference of all other rows.
    for method, variant in sorted(trials, key=lambda name: (name[0] != DENSE, *name)):
        # Trials of older code are named and left out: a mean over both would mean nothing.
        current, old = current_trials(trials[(method, variant)])
        kept += current
        names += [(method, variant)] * len(current)
        left_out += [f"{item.folder}: {why}" for item, why in old]
    # After stale trials are gone: only trials of the table share their spread between processes.
    kept = with_pooled_intervals(kept)
    finished: dict[tuple[str, str], list[Found]] = {name: [] for name in names}
    for name, item in zip(names, kept, strict=True):
        finished[name] += [item] if item.record.status == "ok" else []
    rows = [row for name, trials_of_row in finished.items() for row in _rows(*name, trials_of_row)]
    rows = _with_cheapest_kept(rows)
    _compare_quality(rows)
    # A failed trial has no quality; the others of a table share task and direction.
    labels = [item.record.quality for item in kept if item.record.quality is not None]
    return Table(
        hardware=key.hardware,
        task=key.task,
        backbone=key.backbone,
        profile=key.profile,
        subtitle=subtitle,
        quality=labels[-1] if labels else None,
        rows=rows,
        found=kept,
        unfinished=[unfinished_line(item) for item in kept if item.record.status != "ok"],
        notes=table_notes(kept, rows),
        left_out=left_out,
    )


def _rows(method: str, variant: str, found: Sequence[Found]) -> list[Row]:
    """The row of the default operating point, followed by one row per other point."""
    if not found:
        return []
    # Seeds of one method declare the same; one that has the note is enough.
    notes = {note for item in found for note in item.record.notes}
    by_point: dict[str, list[tuple[int, dict[str, Metric]]]] = defaultdict(list)
    settings: dict[str, dict[str, None]] = defaultdict(dict)  # by point; seeds may differ
    trained: dict[str, str] = {}
    kind, tolerance = _choice(found)
    for item in found:
        seed, points = item.record.labels.seed, item.record.points
        by_point[""].append((seed, item.record.metrics))
        for point in points[1:]:  # the first is the default, whose metrics are the record's
            by_point[point_name(point.settings)].append((seed, point.metrics))
        for number, point in enumerate(points if len(points) > 1 else ()):
            name = point_name(point.settings) if number else ""
            settings[name][_text(point.settings)] = None
            trained[name] = _trained_with(item, point.settings)
    return [
        Row(
            method=method,
            variant=variant,
            point=point,
            seeds=tuple(seed for seed, _ in seeds),
            cells=aggregate([metrics for _, metrics in seeds]),
            quality_by_seed=_quality_by_seed(seeds),
            settings=" or ".join(settings[point]),
            is_ceiling=UPPER_BOUND in notes,
            depends_on_batch=DEPENDS_ON_BATCH in notes,
            entry_point=_entry_point(found[0]),
            choice="" if point else kind,
            tolerance=tolerance,
            trained_with=trained.get(point, ""),
            sample_error=_sample_error(seeds),
        )
        for point, seeds in by_point.items()
    ]


def _with_cheapest_kept(rows: Sequence[Row]) -> list[Row]:
    """Mark the cheapest variant at equal quality where a method's variants have one point each.

    One training of such a method gives one point, so that its curve is that of its variants.
    """
    variants: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        variants[row.entry_point or row.method] += [] if row.settings else [row]
    marked = set()
    for family in variants.values():
        kept = [row for row in family if row.choice == "equal quality"]
        costs = {(r.method, r.variant): r.value(FLOPS_SHARE.key) or math.inf for r in kept}
        if len(family) > 1 and costs:
            marked.add(min(costs, key=lambda name: costs[name]))
    return [replace(r, cheapest_kept=(r.method, r.variant) in marked) for r in rows]


def _entry_point(found: Found) -> str:
    """The method's module and class, which its named variants share."""
    entry_points = entry_of(found.record.provenance.get("entry_points"))
    return str(entry_points.get("method", ""))


def _choice(found: Sequence[Found]) -> tuple[str, float | None]:
    """How the first point was chosen, the worst of the seeds, and by which tolerance."""
    entries = [entry_of(item.record.diagnostics.get("operating_points")) for item in found]
    kinds = [entry.get("kind") for entry in entries]
    tolerances = (number_of(entry.get("tolerance")) for entry in entries)
    worst = next((kind for kind in ("default", "nearest", "equal quality") if kind in kinds), "")
    return worst, next((each for each in tolerances if each is not None), None)


def _trained_with(found: Found, settings: Mapping[str, float | int | str]) -> str:
    """The method's own settings of which a point has another value: `capacity 0.25`."""
    method = config_block(found.record, "method")
    # A point's key that is a setting too means what was trained; a budget of exits has no such.
    other = {k: method[k] for k, v in settings.items() if method.get(k) not in (None, v)}
    return _text(other)


def _text(settings: Mapping[str, float | int | str]) -> str:
    """The settings of an operating point for a reader: `threshold 0.9, k 2`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _quality_by_seed(seeds: Sequence[tuple[int, dict[str, Metric]]]) -> dict[int, float]:
    # Invalid values count as missing: `shown` is None for them.
    scores = (
        (seed, metrics[QUALITY.key].shown) for seed, metrics in seeds if QUALITY.key in metrics
    )
    return {seed: float(score) for seed, score in scores if score is not None}


def _compare_quality(rows: Sequence[Row]) -> None:
    """Where a row shares two seeds or more with dense, their paired difference in quality.

    All seeds have one test set: what another would show is as uncertain as for one of them. Of the
    interval over seeds and that over test samples the wider one counts.
    """
    dense = next((row for row in rows if row.method == DENSE and not row.point), None)
    for row in rows:
        if dense is None or row is dense:
            continue
        shared = sorted(row.quality_by_seed.keys() & dense.quality_by_seed.keys())
        if len(shared) > 1:  # one seed has no spread to judge a difference by
            pairs = [(row.quality_by_seed[s], dense.quality_by_seed[s]) for s in shared]
            cell = difference(row.cells[QUALITY.key].unit, pairs)
            row.cells[QUALITY_VS_DENSE.key] = at_least(cell, row.sample_error)


def _sample_error(seeds: Sequence[tuple[int, dict[str, Metric]]]) -> float | None:
    """Half of the interval of quality minus dense over test samples, the mean of the seeds."""
    found = [
        metrics[QUALITY_VS_DENSE.key] for _, metrics in seeds if QUALITY_VS_DENSE.key in metrics
    ]
    halves = [
        (each.high - each.low) / 2
        for each in found
        if each.shown is not None and each.low is not None and each.high is not None
    ]
    return sum(halves) / len(halves) if halves else None
