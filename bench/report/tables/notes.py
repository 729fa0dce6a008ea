"""The notes below a table: what records note about themselves, and what rows give away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from bench.records.catalogue import (
    CLOSED_SHARE,
    DECLARED_SAVING,
    DENSE_TIME,
    EXECUTED_SAVING,
    TRAIN_STEPS,
)
from bench.records.reading import Found
from bench.records.record import Metric
from bench.report.tables.table import Row, trial_name


def table_notes(found: Sequence[Found], rows: Sequence[Row]) -> list[str]:
    """Each note of the records once with its methods, then the notes on rows."""
    names: dict[str, list[str]] = defaultdict(list)
    # By note and then by method: ten seeds with the same note make one line.
    for item in found:
        labels = item.record.labels
        for note in item.record.notes:
            names[note].append(f"{trial_name(labels)} (seed {labels.seed})")
        if start := _dense_start(item.record.metrics):
            names[start].append(trial_name(labels))
    notes = [f"{', '.join(dict.fromkeys(who))}: {note}" for note, who in names.items()]
    notes += [_shortfall_note(row) for row in rows if row.shortfall]
    return notes + [_never_saves_note(row) for row in rows if row.never_saves]


def unfinished_line(found: Found) -> str:
    """`failed: moe (seed 0): out of memory`."""
    record = found.record
    name = f"{trial_name(record.labels)} (seed {record.labels.seed})"
    return f"{record.status}: {name}: {record.reason}"


def _dense_start(metrics: Mapping[str, Metric]) -> str:
    """A note where training continued from the dense model: an advantage in a short training."""
    dense, steps = metrics.get(DENSE_TIME.key), metrics.get(TRAIN_STEPS.key)
    # `not steps.shown`: a training-free method takes 0 steps and has no such advantage.
    if dense is None or dense.shown is None or steps is None or not steps.shown:
        return ""
    return f"starts from the trained dense model and adds {steps.shown:.0f} training steps"


def _never_saves_note(row: Row) -> str:
    least = row.value(CLOSED_SHARE.key) or 0.0
    return (
        f"{row.name}: never below dense: with every gate closed it executes {least:.0%} of the "
        "dense FLOPs, without those of the gates"
    )


def _shortfall_note(row: Row) -> str:
    declared, executed = row.value(DECLARED_SAVING.key), row.value(EXECUTED_SAVING.key)
    return (
        f"{row.name}: {row.shortfall}: the decisions declare a saving of {declared:.0%} of the "
        f"dense FLOPs, the execution saves {executed:.0%}"
    )
