"""Records become tables: which trials share a table, which share a row, what a row's numbers are.

    one table   hardware, task, backbone, measure profile, and everything else that the config says
                except method and seed: different hardware is never averaged
    one row     one method with its variant at one operating point, over its seeds

Of trials of one row that ran different code, package versions, settings or data, the newest
decides and the others are named and left out: a mean over them would mean nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.record import Labels, Metric, QualityLabel
from bench.report.cells import Cell, aggregate, difference
from bench.report.reading import Found, config_block, point_name, profile

MASKED_GAP = 0.05  # executed share beyond the declared one: the saving is simulated, not executed
DENSE = "dense"
QUALITY = "infer/quality"
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

    @property
    def name(self) -> str:
        """`moe,num_experts=16`, or `early_exit [threshold=0.9]` at an operating point."""
        return f"{self.method_name} [{self.point}]" if self.point else self.method_name

    @property
    def method_name(self) -> str:
        """`moe,num_experts=16`: the same at all operating points."""
        return _name(self)

    @property
    def masked(self) -> bool:
        """Whether the method executes work that its decisions declare as saved."""
        declared, executed = self.saving("declared"), self.saving("executed")
        if declared is None or executed is None:
            return False
        return declared - executed > MASKED_GAP

    def saving(self, kind: Literal["declared", "executed"]) -> float | None:
        """Share of the dense FLOPs saved against open gates, as declared or as executed."""
        cell = self.cells.get(f"infer/{kind}_saving")
        return None if cell is None else cell.value


@dataclass(frozen=True)
class Table:
    """Rows that may be compared, and everything a reader must know about them."""

    hardware: str
    task: str
    backbone: str
    profile: str
    subtitle: str  # settings by which it differs from tables of the same name; mostly ""
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


def tables(found: Iterable[Found]) -> list[Table]:
    """All tables of these records, ordered by hardware, task, backbone and profile."""
    groups: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    for item in found:
        groups[_table_key(item)].append(item)
    ordered = sorted(groups.items(), key=lambda group: group[0])
    subtitles = _subtitles([key for key, _ in ordered])
    return [_table(key, group, subtitles[key]) for key, group in ordered]


def _table_key(found: Found) -> tuple[str, ...]:
    """What all rows of a table share, from the config: a dead child's record has it too."""
    labels = found.record.labels
    conditions: dict[str, Any] = {
        name: dict(config_block(found.record, name))
        for name in ("task", "backbone", "train", "measure", "gpu")
    }
    conditions["gpu"].pop("device", None)  # which of several equal GPUs it was
    flat = json.dumps(_flatten(conditions), sort_keys=True, default=str)
    where = (labels.hardware, labels.device)
    return (*where, labels.task, labels.backbone, profile(found.record), flat)


def _flatten(block: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in block.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def _subtitles(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Tables of one name are told apart by the settings in which they differ."""
    namesakes: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for key in keys:
        namesakes[key[:-1]].append(key)
    subtitles = {}
    for same in namesakes.values():
        flats = [json.loads(key[-1]) for key in same]
        names = sorted({name for flat in flats for name in flat})
        differ = [n for n in names if len({json.dumps(flat.get(n)) for flat in flats}) > 1]
        for key, flat in zip(same, flats, strict=True):
            subtitles[key] = ", ".join(f"{name}={flat.get(name)}" for name in differ)
    return subtitles


def _table(key: tuple[str, ...], group: Sequence[Found], subtitle: str) -> Table:
    cells: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for item in group:
        cells[(item.record.labels.method, item.record.labels.variant)].append(item)
    kept: list[Found] = []
    left_out: list[str] = []
    rows: list[Row] = []
    for method, variant in sorted(cells, key=lambda cell: (cell[0] != DENSE, *cell)):
        current, old = _current(cells[(method, variant)])
        kept += current
        left_out += [f"{item.folder}: {why}" for item, why in old]
        rows += _rows(method, variant, [item for item in current if item.record.status == "ok"])
    _compare_quality(rows)
    labels = [item.record.quality for item in kept if item.record.quality is not None]
    quality = labels[-1] if labels else None
    hardware, _, task, backbone, profile_name, _ = key
    return Table(
        hardware=hardware,
        task=task,
        backbone=backbone,
        profile=profile_name,
        subtitle=subtitle,
        quality=quality,
        rows=rows,
        found=kept,
        unfinished=[_unfinished(item) for item in kept if item.record.status != "ok"],
        notes=_notes(kept, rows),
        left_out=left_out,
    )


def _current(group: Sequence[Found]) -> tuple[list[Found], list[tuple[Found, str]]]:
    """One trial per seed, all of the newest trial's identity; and the others with the reason."""
    newest_first = sorted(group, key=lambda item: item.started_unix_s, reverse=True)
    identity = next((i for i in map(_identity, newest_first) if i is not None), None)
    kept: dict[int, Found] = {}
    old: list[tuple[Found, str]] = []
    for item in newest_first:
        own = _identity(item)
        if own is not None and own != identity:
            old.append((item, "a newer trial of this row ran other code, versions or settings"))
        elif item.record.labels.seed in kept:
            old.append((item, f"a newer trial of this row has seed {item.record.labels.seed}"))
        else:
            kept[item.record.labels.seed] = item
    return [kept[seed] for seed in sorted(kept)], old


def _identity(found: Found) -> str | None:
    """Code, package versions, data and the method's settings; None where the record lacks them."""
    identity = found.record.provenance.get("identity")
    if not isinstance(identity, dict):
        return None
    parts = [identity.get(name) for name in ("code", "versions", "data")]
    return json.dumps([*parts, found.record.config.get("method")], sort_keys=True, default=str)


def _rows(method: str, variant: str, found: Sequence[Found]) -> list[Row]:
    """The default operating point's row and below it one row per operating point."""
    if not found:
        return []
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


def _name(of: Row | Labels) -> str:
    return f"{of.method},{of.variant}" if of.variant else of.method


def _unfinished(found: Found) -> str:
    labels = found.record.labels
    return f"{found.record.status}: {_name(labels)} (seed {labels.seed}): {found.record.reason}"


def _notes(found: Sequence[Found], rows: Sequence[Row]) -> list[str]:
    """What the records say of themselves, each note once with its methods; then what rows show."""
    said: dict[str, list[str]] = defaultdict(list)
    for item in found:
        labels, points = item.record.labels, item.record.points
        for note in item.record.notes:
            said[note].append(f"{_name(labels)} (seed {labels.seed})")
        if len(points) > 1:
            said[f"runs at {point_name(points[0].settings)} by default"].append(_name(labels))
    notes = [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in said.items()]
    return notes + [_masked_note(row) for row in rows if row.masked]


def _masked_note(row: Row) -> str:
    return (
        f"{row.name}: masked: its decisions declare a saving of {row.saving('declared'):.0%} of "
        f"the dense FLOPs, the execution saved {row.saving('executed'):.0%}"
    )
