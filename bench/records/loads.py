"""The load of experts in a record, for trials that draw experts with it: no torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records.record import RECORD_NAME, BadRecord, read_record


def recorded_loads(path: str) -> dict[str, list[float]]:
    """Each gate's share of what runs per expert, from a trial's folder or its record.json.

    Raises ValueError where there is no record, or none with such a load.
    """
    file = Path(path)
    try:
        record = read_record(file / RECORD_NAME if file.is_dir() else file)
    except BadRecord as error:
        raise ValueError(f"measure.routing_from: {error}") from error
    routing: Any = record.diagnostics.get("routing")
    gates = routing.get("gates") if isinstance(routing, dict) else None
    # Free-form, as all diagnostics are: what has another form is no load.
    found = dict(filter(None, map(_load, gates if isinstance(gates, list) else [])))
    if not found:
        raise ValueError(f"measure.routing_from={path}: the record holds no load of a gate")
    return found


def _load(gate: Any) -> tuple[str, list[float]] | None:
    name, load = (gate.get(key) if isinstance(gate, dict) else None for key in ("name", "load"))
    if not isinstance(name, str) or not isinstance(load, list) or not load:
        return None
    shares = [float(each) for each in load if isinstance(each, int | float) and 0 <= each <= 1]
    return (name, shares) if len(shares) == len(load) and sum(shares) > 0 else None
