"""Every metric as one tidy pandas frame, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records.reading import Found, paused_garbage_collection, point_name, profile, read
from bench.records.record import Metric, PointResult

# Where a row belongs, which trial it is, and the number with what qualifies it.
FRAME_COLUMNS = (
    *("experiment", "hardware", "device", "task", "backbone", "method", "variant", "seed"),
    *("profile", "key", "status", "point", "is_default", "metric"),
    *("value", "unit", "low", "high", "valid", "reason", "folder"),
)


def frame(dirs: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """All metrics below one or several folders, one row per record x operating point x metric.

    `point` is the operating point's settings like "threshold=0.9", "" for a method without any;
    memory and training are the default point's. `value` is NaN where the number is missing or
    invalid; `reason` explains it, and the record holds an invalid number. A skipped or failed trial
    is one row without a metric, its reason in `reason`.
    Columns: FRAME_COLUMNS. Raises NoRecords.
    """
    folders = [Path(each) for each in ([dirs] if isinstance(dirs, str | Path) else dirs)]
    with paused_garbage_collection():
        rows = [row for found in read(folders).found for row in _frame_rows(found)]
    table = pd.DataFrame.from_records(rows, columns=FRAME_COLUMNS)
    # Counts are integers in records; a column of numbers and None would be of type object.
    return table.astype({"value": float, "low": float, "high": float})


def _frame_rows(found: Found) -> Iterator[tuple[Any, ...]]:
    record, labels = found.record, found.record.labels
    start = (
        *(labels.experiment, labels.hardware, labels.device, labels.task, labels.backbone),
        *(labels.method, labels.variant, labels.seed, profile(record), record.key, record.status),
    )
    folder = str(found.folder)
    if record.status != "ok":
        yield (*start, "", True, None, None, None, None, None, False, record.reason, folder)
        return
    # The first point is the default: its metrics are the record's, memory and training included.
    default, *others = record.points or [PointResult(settings={}, metrics={})]
    measured = [(default.settings, record.metrics), *((p.settings, p.metrics) for p in others)]
    for number, (settings, metrics) in enumerate(measured):
        point = (point_name(settings), number == 0)
        for key, metric in metrics.items():
            yield (*start, *point, key, *_metric_cells(metric), folder)


def _metric_cells(metric: Metric) -> tuple[Any, ...]:
    # The bounds of an invalid number are as invalid as the number.
    bounds = (metric.low, metric.high) if metric.shown is not None else (None, None)
    return (metric.shown, metric.unit, *bounds, metric.valid, metric.reason)
