"""What a record can hold: numbers that are finite, text in UTF-8, lists and mappings.

    writable(content)     the same content, in which what JSON cannot hold is left out by name

Half an hour of measuring must not be lost over one number of a plugin. A metric that cannot be
written is missing with a reason; another field is null, and a note of the record names its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.records.contradiction import contradiction
from bench.records.record import Metric, QualityLabel, missing
from bench.records.redaction import bounded
from bench.values import as_scalar, encodable

MAX_NOTES = 1000
MAX_DEPTH = 50  # of lists and mappings: our own reach 6, and readers recurse
MAX_CHARACTERS = 4000  # of a text: plugins give reasons and names
MAX_ENTRIES = 100_000  # of a list or mapping; raw vectors are in raw.npz
MAX_DIGITS = 300  # of an integer: a float ends at 10^308, and readers refuse more than 4,300
JUDGED_APART = ("metrics", "points", "notes", "quality")


def writable(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record, as `Record.model_validate` takes them, that JSON can hold.

    Numbers of numpy and torch become Python's own, lone surrogates are escaped.
    """
    lost: list[str] = []
    found = {
        name: _plain(value, name, lost)
        for name, value in content.items()
        if name not in JUDGED_APART
    }
    found["metrics"] = _metrics(content.get("metrics", {}))
    found["quality"] = _quality(content.get("quality"), lost)
    found["points"] = [
        {"settings": _plain(point.settings, "points", lost), "metrics": _metrics(point.metrics)}
        for point in content.get("points", ())
    ]
    notes = [encodable(bounded(str(note), MAX_CHARACTERS)) for note in content.get("notes", ())]
    notes += [f"left out of the record: {bounded(place, MAX_CHARACTERS)}" for place in lost]
    return {**found, "notes": notes[:MAX_NOTES]}


def _metrics(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    return {encodable(key): _metric(key, each).model_dump() for key, each in metrics.items()}


def _metric(key: str, metric: Metric) -> Metric:
    """`metric` if it can be written; else missing, with the reason."""
    lost: list[str] = []
    fields = _plain(vars(metric), key, lost)
    try:
        # Validated again: a copy with changed fields was not.
        if not lost:
            return _withheld(key, Metric.model_validate(fields))
        problem = lost[0]
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    unit = metric.unit if isinstance(metric.unit, str) else "unknown"
    return missing(encodable(unit), encodable(f"{key} cannot be recorded: {problem}"))


def _withheld(key: str, metric: Metric) -> Metric:
    """`metric`, invalid where it contradicts the catalogue: a reader would refuse the record."""
    problem = contradiction(key, metric) if metric.valid else ""
    # A copy: the number is kept for inspection.
    changed = {"valid": False, "reason": f"withheld: {problem}"}
    return metric.model_copy(update=changed) if problem else metric


def _quality(label: QualityLabel | None, lost: list[str]) -> dict[str, Any] | None:
    """The label without references that are no numbers."""
    if label is None:
        return None
    found = _plain(label, "quality", lost)
    # Null is no number either: a reader would refuse the record.
    references = {name: value for name, value in found["references"].items() if value is not None}
    return {**found, "references": references}


def _plain(value: Any, place: str, lost: list[str], path: tuple[int, ...] = ()) -> Any:
    """`value` as JSON holds it; what it cannot hold is null and gets a line in `lost`.

    `path` has the identities of the lists and mappings that it is in.
    """
    found = value.model_dump() if isinstance(value, BaseModel) else as_scalar(value)
    if isinstance(found, str):
        return bounded(found, MAX_CHARACTERS)
    if found is None or isinstance(found, bool):
        return found
    problem = _problem(found, path)
    if problem:
        lost.append(encodable(f"{place}: {problem}"))
        return None
    inside = (*path, id(found))
    if isinstance(found, Mapping):
        # JSON requires texts as keys.
        return {
            encodable(bounded(str(key), MAX_CHARACTERS)): _plain(
                each, f"{place}.{key}", lost, inside
            )
            for key, each in found.items()
        }
    if isinstance(found, list | tuple):
        return [
            _plain(each, f"{place}[{number}]", lost, inside) for number, each in enumerate(found)
        ]
    # Subclasses, such as an IntEnum, are written as the number that they are.
    return int(found) if isinstance(found, int) else float(found)


def _problem(found: Any, path: tuple[int, ...]) -> str:
    """Why JSON cannot hold the value itself; "" where it can."""
    if isinstance(found, Mapping | list | tuple):
        if id(found) in path:
            return "a structure that contains itself"
        if len(found) > MAX_ENTRIES:
            return f"{len(found):,} entries: at most {MAX_ENTRIES:,} are kept"
        return f"nested more than {MAX_DEPTH} deep" if len(path) >= MAX_DEPTH else ""
    if isinstance(found, int):
        too_long = abs(found) >= 10**MAX_DIGITS
        return f"an integer of more than {MAX_DIGITS} digits" if too_long else ""
    if isinstance(found, float):
        return "" if math.isfinite(found) else str(float(found))
    return f"a value of type {type(found).__name__}"
