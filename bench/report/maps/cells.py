"""The measured sizes of each method: one map per method, hardware and settings."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.catalogue import SPEEDUP, TAU
from bench.records.reading import Found, config_block
from bench.records.record import Labels
from bench.report.tables.grouping import own_variant
from bench.report.tables.processes import with_pooled_intervals
from bench.report.tables.untrusted import entry_of, number_of, numbers_of

DENSE = "dense"
PRECISION = {"32": "fp32", "16": "fp16"}


@dataclass(frozen=True, order=True)
class Size:
    """Width D of a model, and the tokens of an input without a class token."""

    width: int
    tokens: int


@dataclass(frozen=True)
class Cell:
    """A method beside dense at one size and batch size.

    `speedup`: dense time / method time with its 95 % interval; `tau`: dense FLOPs / executed FLOPs.
    """

    size: Size
    batch: int
    speedup: float
    low: float | None = None
    high: float | None = None
    tau: float | None = None

    @property
    def pays(self) -> bool:
        """Faster than dense with 95 % confidence; without an interval, faster."""
        return (self.speedup if self.low is None else self.low) > 1


@dataclass(frozen=True)
class Map:
    """All measured cells of a method under the same settings."""

    method: str
    hardware: str
    settings: str  # what holds for all cells: "2 threads, fp32, routing=balanced"
    cells: Sequence[Cell]

    @property
    def widths(self) -> list[int]:
        """Ascending."""
        return sorted({cell.size.width for cell in self.cells})

    @property
    def tokens(self) -> list[int]:
        """Ascending."""
        return sorted({cell.size.tokens for cell in self.cells})

    @property
    def batches(self) -> list[int]:
        """Ascending."""
        return sorted({cell.batch for cell in self.cells})

    def at(self, batch: int) -> dict[Size, Cell]:
        """The cells of one batch size."""
        return {cell.size: cell for cell in self.cells if cell.batch == batch}


def maps_of(found: Sequence[Found]) -> list[Map]:
    """One map for each method timed at several sizes; the newest of equal trials counts."""
    maps = maps_by_plane(found).values()
    kept = [each for each in maps if len({cell.size for cell in each.cells}) > 1]
    return sorted(kept, key=lambda each: (each.hardware, each.method, each.settings))


def maps_by_plane(found: Sequence[Found]) -> dict[str, Map]:
    """Every method's cells by `plane_of` its trials, also of a single size."""
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in sorted(found, key=lambda item: item.started_unix_s):
        labels, config = each.record.labels, each.record.config
        if each.record.status == "ok" and labels.method != DENSE and size_of(config) is not None:
            groups[plane_of(labels, config)].append(each)
    return {plane: _map(group) for plane, group in groups.items()}


def size_of(config: Mapping[str, Any]) -> Size | None:
    """The size that a trial's configuration states.

    None for a task with data of its own, and for a backbone without a width: no axis is there.
    """
    backbone, task = entry_of(config.get("backbone")), entry_of(config.get("task"))
    width, tokens = number_of(backbone.get("dim")), _tokens(task, backbone)
    return Size(int(width), tokens) if width and tokens else None


def _tokens(task: Mapping[str, Any], backbone: Mapping[str, Any]) -> int | None:
    pixels = number_of(task.get("resolution"))
    shape = [3.0, pixels, pixels] if pixels else numbers_of(task.get("shape"))
    if not shape:
        return None
    if task.get("kind", "image") == "image" and len(shape) == 3:
        stride = number_of(backbone.get("image_stride")) or 1.0
        return math.ceil(shape[1] / stride) * math.ceil(shape[2] / stride)
    return int(shape[-1])


def plane_of(labels: Labels, config: Mapping[str, Any]) -> str:
    """What the trials of one map have in common: everything but the size and the seed."""
    blocks = {
        name: dict(entry_of(config.get(name)))
        for name in ("method", "task", "backbone", "train", "measure", "gpu")
    }
    for block, name in (
        *(("task", "shape"), ("task", "resolution"), ("backbone", "dim"), ("gpu", "device")),
    ):
        blocks[block].pop(name, None)
    where = [labels.hardware, labels.device, labels.task, labels.backbone, labels.method]
    return json.dumps([where, blocks], sort_keys=True, default=str)


def _map(group: Sequence[Found]) -> Map:
    # What changes between processes is much the same at all sizes: few processes then suffice.
    cells = {
        (cell.size, cell.batch): cell
        for found in with_pooled_intervals(group)
        for cell in _cells(found)
    }
    labels = group[0].record.labels
    variant = own_variant(labels)
    name = f"{labels.method},{variant}" if variant else labels.method
    ordered = [cells[key] for key in sorted(cells)]
    return Map(name, labels.hardware, _settings(group[0]), ordered)


def _cells(found: Found) -> list[Cell]:
    size, metrics = size_of(found.record.config), found.record.metrics
    assert size is not None  # `maps_of` takes no others
    cells = []
    for batch in SPEEDUP.batch_sizes(metrics):
        speedup, tau = metrics[SPEEDUP.at(batch)], metrics.get(TAU.at(batch))
        # Zero and below have no logarithm; an untrusted record may hold them.
        if speedup.shown is not None and speedup.shown > 0:
            of_tau = None if tau is None or tau.shown is None else float(tau.shown)
            cells.append(Cell(size, batch, float(speedup.shown), speedup.low, speedup.high, of_tau))
    return cells


def _settings(found: Found) -> str:
    measure = config_block(found.record, "measure")
    threads = found.record.environment.get("num_threads")
    precision = str(config_block(found.record, "gpu").get("precision", "32"))
    share, routing = measure.get("force_share"), measure.get("routing", "own")
    parts = [
        "" if threads is None else f"{threads} thread{'' if threads == 1 else 's'}",
        PRECISION.get(precision, precision),
        f"routing={routing}",
        "" if share is None else f"gates run a share of {share:g}",
    ]
    return ", ".join(filter(None, parts))
