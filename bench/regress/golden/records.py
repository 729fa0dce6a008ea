"""Golden records on disk, and the differences between two of them, count by count.

<baseline>/<task>/<backbone>/<method>.json     counts, with their torch and configuration
<baseline>/<task>/<backbone>/<method>.npz      the decisions under which they hold
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from bench.records.arrays import open_arrays
from bench.records.files import read_json
from bench.records.record import write_json
from bench.records.replacing import replace_file
from bench.records.validation import first_error
from bench.regress.verdict import BadInput

SCHEMA_VERSION = 1
Content = dict[str, Any]


class Golden(BaseModel):
    """What a golden record holds, as far as a reader depends on it."""

    model_config = ConfigDict(strict=True)

    counts: dict[str, Any]
    torch: str
    config: dict[str, Any]


def read_golden(path: Path) -> Content:
    """One golden record. Raises BadInput for a damaged file or another schema."""
    try:
        content = read_json(path)
        version = content["schema_version"]
        if error := first_error(Golden, content):
            raise ValueError(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: not a golden record ({error}); git checkout restores it"
        ) from error
    if version != SCHEMA_VERSION:
        raise BadInput(f"{path}: schema version {version!r}, this condbench reads {SCHEMA_VERSION}")
    return dict(content)


def read_decisions(path: Path) -> dict[str, np.ndarray]:
    """The recorded decisions beside a golden record; none without a file. Raises BadInput."""
    file = path.with_suffix(".npz")
    try:
        with open_arrays(file) as found:
            return {name: array for name in found.names if (array := found.get(name)) is not None}
    except FileNotFoundError:  # a method without gates
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: damaged ({error}); git checkout restores it") from error


def write_golden(path: Path, content: Content, decisions: Mapping[str, np.ndarray]) -> None:
    """Write a golden record, and its decisions where there are any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema_version": SCHEMA_VERSION, **content})
    file = path.with_suffix(".npz")
    file.unlink(missing_ok=True)  # of a version of the method that still had gates
    if decisions:
        packed = io.BytesIO()
        np.savez_compressed(packed, **decisions)  # type: ignore[arg-type]
        replace_file(file, packed.getvalue())


def changes(before: Content, now: Content) -> Iterator[str]:
    """One line per count or setting that differs: "counts.params 1,290 -> 1,291"."""
    old, new = ({"config": each["config"], "counts": each["counts"]} for each in (before, now))
    # One line per leaf, so that a changed region or gate is named.
    flat_old, flat_new = dict(_flatten(old)), dict(_flatten(new))
    for key in sorted(flat_old.keys() | flat_new.keys()):
        if flat_old.get(key) != flat_new.get(key):
            yield f"{key} {_as_text(flat_old.get(key))} -> {_as_text(flat_new.get(key))}"


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, content


def _as_text(value: Any) -> str:
    """A number with thousands separators, a list of numbers by its sum and length, None as none."""
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, int | list):  # a bool is an int
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    if len(value) > 1 and all(isinstance(each, int) for each in value):
        return f"{sum(value):,} in {len(value)}"
    return json.dumps(value)
