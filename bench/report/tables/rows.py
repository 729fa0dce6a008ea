"""Records become tables of rows: what a row's numbers are, and what stands below them.

    one row     one method with its variant at one operating point, over its seeds

Which trials share a table, and which of them count, is the matter of `grouping`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.records.reading import Found, point_name
from bench.records.record import CEILING, DEPENDS_ON_BATCH, Labels, Metric, QualityLabel
from bench.report.tables.cells import Cell, aggregate, difference
from bench.report.tables.grouping import TableKey, current_trials, own_variant, subtitles, table_key
from bench.routing import SHORTFALL

DENSE = "dense"
QUALITY = "infer/quality"
NOISE_FLOOR = "infer/noise_floor"
VS_DENSE = "infer/quality_vs_dense"  # made here: mean difference over shared seeds


@dataclass(frozen=True)
class Row:
    """One method, variant and operating point, aggregated over seeds."""

    method: str
    variant: str
    point: str  # "" for the default one
    seeds: tuple[int, ...]
    cells: dict[str, Cell]  # by metric key
    quality_by_seed: dict[int, float]
    is_ceiling: bool = False  # a control that sees the targets: no result
    depends_on_batch: bool = False

    @property
    def name(self) -> str:
        """`moe,num_experts=16`, or `early_exit [threshold=0.9]` at an operating point."""
        return f"{self.method_name} [{self.point}]" if self.point else self.method_name

    @property
    def method_name(self) -> str:
        """`moe,num_experts=16`: the same at all operating points."""
        return _name(self.method, self.variant)

    @property
    def shortfall(self) -> Literal["", "masked", "padded"]:
        """What became of a declared saving that was not executed, in the largest batch.

        "masked": most of it was computed all the same. "padded": more than half was saved, the rest
        is what batching costs, such as short samples filled up to the longest. "": all of it was.
        """
        declared, executed = self.saving("declared"), self.saving("executed")
        if declared is None or executed is None or declared - executed <= SHORTFALL:
            return ""
        return "padded" if executed > declared / 2 else "masked"

    @property
    def never_saves(self) -> bool:
        """Whether even closed gates leave as many FLOPs as dense has."""
        least = self.cells.get("infer/flops_share_closed")
        return least is not None and least.value is not None and least.value >= 1

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must not overlook, in two words each."""
        said = {
            "sees the targets": self.is_ceiling,
            "depends on its batch": self.depends_on_batch,
            "never below dense": self.never_saves,
            self.shortfall: self.shortfall != "",
        }
        return tuple(remark for remark, holds in said.items() if holds)

    def saving(self, kind: Literal["declared", "executed"]) -> float | None:
        """Share of the dense FLOPs saved against open gates, as declared or as executed."""
        cell = self.cells.get(f"infer/{kind}_saving")
        return None if cell is None else cell.value


@dataclass(frozen=True)
class NoiseFloor:
    """How far a model timed against itself was from 1, and whether that is too far to be quiet."""

    value: float
    is_noisy: bool


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, and everything a reader must know about them."""

    hardware: str
    task: str
    backbone: str
    profile: str
    subtitle: str  # settings that all its rows share and that are not the defaults
    quality: QualityLabel | None
    rows: list[Row]
    found: list[Found]  # what the rows were made of, skipped and failed ones included
    unfinished: list[str] = field(default_factory=list)  # skipped and failed trials with reason
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """`digits, transformer`: what the rows have in common."""
        return f"{self.task}, {self.backbone}" + (f" ({self.subtitle})" if self.subtitle else "")

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({seed for row in self.rows for seed in row.seeds}))

    @property
    def noise_floors(self) -> dict[str, NoiseFloor]:
        """The worst A/A control of each batch size, by `b64`; a noisy one is kept and says so."""
        worst: dict[str, NoiseFloor] = {}
        for item in self.found:
            for key, metric in item.record.metrics.items():
                if not key.startswith(NOISE_FLOOR) or metric.value is None:
                    continue
                size = key.removeprefix(NOISE_FLOOR).lstrip("_")
                before = worst.get(size)
                if before is None or metric.value > before.value:
                    worst[size] = NoiseFloor(metric.value, is_noisy=metric.reason is not None)
        return worst


def tables(found: Iterable[Found]) -> list[Table]:
    """All tables of these records, ordered by hardware, task, backbone and profile."""
    groups: dict[TableKey, list[Found]] = defaultdict(list)
    for item in found:
        groups[table_key(item)].append(item)
    names = subtitles(groups)
    return [_table(key, groups[key], names[key]) for key in sorted(groups)]


def _table(key: TableKey, group: Sequence[Found], subtitle: str) -> Table:
    cells: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for item in group:
        cells[(item.record.labels.method, own_variant(item.record.labels))].append(item)
    kept: list[Found] = []
    left_out: list[str] = []
    rows: list[Row] = []
    for method, variant in sorted(cells, key=lambda cell: (cell[0] != DENSE, *cell)):
        current, old = current_trials(cells[(method, variant)])
        kept += current
        left_out += [f"{item.folder}: {why}" for item, why in old]
        rows += _rows(method, variant, [item for item in current if item.record.status == "ok"])
    _compare_quality(rows)
    labels = [item.record.quality for item in kept if item.record.quality is not None]
    quality = labels[-1] if labels else None
    return Table(
        hardware=key.hardware,
        task=key.task,
        backbone=key.backbone,
        profile=key.profile,
        subtitle=subtitle,
        quality=quality,
        rows=rows,
        found=kept,
        unfinished=[_unfinished(item) for item in kept if item.record.status != "ok"],
        notes=_notes(kept, rows),
        left_out=left_out,
    )


def _rows(method: str, variant: str, found: Sequence[Found]) -> list[Row]:
    """The default operating point's row and below it one row per operating point."""
    if not found:
        return []
    notes = {note for item in found for note in item.record.notes}
    by_point: dict[str, list[tuple[int, dict[str, Metric]]]] = defaultdict(list)
    for item in found:
        seed = item.record.labels.seed
        by_point[""].append((seed, item.record.metrics))
        for point in item.record.points[1:]:  # the first is the default
            by_point[point_name(point.settings)].append((seed, point.metrics))
    return [
        Row(
            method=method,
            variant=variant,
            point=point,
            seeds=tuple(seed for seed, _ in seeds),
            cells=aggregate([metrics for _, metrics in seeds]),
            quality_by_seed=_quality_by_seed(seeds),
            is_ceiling=CEILING in notes,
            depends_on_batch=DEPENDS_ON_BATCH in notes,
        )
        for point, seeds in by_point.items()
    ]


def _quality_by_seed(seeds: Sequence[tuple[int, dict[str, Metric]]]) -> dict[int, float]:
    scores = ((seed, metrics[QUALITY].shown) for seed, metrics in seeds if QUALITY in metrics)
    return {seed: float(score) for seed, score in scores if score is not None}


def _compare_quality(rows: Sequence[Row]) -> None:
    """Where a row shares two seeds or more with dense, add their paired difference in quality."""
    dense = next((row for row in rows if row.method == DENSE and not row.point), None)
    for row in rows:
        if dense is None or row is dense:
            continue
        shared = sorted(row.quality_by_seed.keys() & dense.quality_by_seed.keys())
        if len(shared) > 1:
            pairs = [(row.quality_by_seed[s], dense.quality_by_seed[s]) for s in shared]
            row.cells[VS_DENSE] = difference(row.cells[QUALITY].unit, pairs)


def _name(method: str, variant: str) -> str:
    return f"{method},{variant}" if variant else method


def trial_name(labels: Labels) -> str:
    """The name of the row that a trial belongs to, whatever its operating point."""
    return _name(labels.method, own_variant(labels))


def _unfinished(found: Found) -> str:
    labels = found.record.labels
    return (
        f"{found.record.status}: {trial_name(labels)} (seed {labels.seed}): {found.record.reason}"
    )


def _notes(found: Sequence[Found], rows: Sequence[Row]) -> list[str]:
    """What the records say of themselves, each note once with its methods; then what rows show."""
    said: dict[str, list[str]] = defaultdict(list)
    for item in found:
        labels, points = item.record.labels, item.record.points
        for note in item.record.notes:
            said[note].append(f"{trial_name(labels)} (seed {labels.seed})")
        if len(points) > 1:
            said[f"runs at {point_name(points[0].settings)} by default"].append(trial_name(labels))
        if start := _start(item.record.metrics):
            said[start].append(trial_name(labels))
    notes = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in said.items()]
    notes += [_shortfall_note(row) for row in rows if row.shortfall]
    return notes + [_never_saves_note(row) for row in rows if row.never_saves]


def _start(metrics: Mapping[str, Metric]) -> str:
    """That a method trained on from the dense model, an advantage in a short training."""
    dense, steps = (metrics.get(f"train/{name}") for name in ("dense_time_s", "num_steps"))
    if dense is None or dense.shown is None or steps is None or not steps.shown:
        return ""
    return f"starts from the trained dense model and takes {steps.shown:.0f} training steps more"


def _never_saves_note(row: Row) -> str:
    least = row.cells["infer/flops_share_closed"].value or 0.0
    return (
        f"{row.name}: never below dense: with every gate closed it executes {least:.0%} of the "
        "dense FLOPs, its gates left out"
    )


def _shortfall_note(row: Row) -> str:
    declared, executed = row.saving("declared"), row.saving("executed")
    return (
        f"{row.name}: {row.shortfall}: its decisions declare a saving of {declared:.0%} of the "
        f"dense FLOPs, the execution saved {executed:.0%}"
    )
