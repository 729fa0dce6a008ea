"""A trial's result: one JSON file, written atomically, validated when read; raw vectors beside it.

    record.json   labels, status, config, environment, metrics {value, unit, low, high, ...}
    raw.npz       per-sample vectors and raw rounds (numpy arrays, no pickle)

Missing is null with a reason, never 0. Validity is per metric, so that one noisy timing does not
hide exact FLOPs. No torch here: reading side and launcher import this room.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.records.files import MAX_BYTES, open_regular, read_json
from bench.records.replacing import replace_file
from bench.values import as_scalar

SCHEMA_VERSION: Literal[1] = 1
RECORD_NAME, RAW_NAME, TRIAL_NAME, LOG_NAME = "record.json", "raw.npz", "trial.json", "trial.log"
Status = Literal["ok", "skipped", "failed"]
Device = Literal["cpu", "cuda", "fake"]
# Notes by which a report finds rows that are no results like others.
UPPER_BOUND = "oracle upper bound: reads the targets"
DEPENDS_ON_BATCH = "output depends on other samples in the batch"
# As records of earlier versions have them: such a row must not become a result with age.
FORMER_NOTES = {
    "sees the targets: a ceiling, no result": UPPER_BOUND,
    "a sample's result depends on its batch": DEPENDS_ON_BATCH,
}


class BadRecord(Exception):
    """A record that is damaged, foreign or of another schema; the message names file and cause."""


class Metric(BaseModel):
    """One number with its unit, its 95 % interval where there is one, and whether it counts.

    `value` null needs a `reason`; `valid` false keeps the number for inspection, and no table
    shows it.
    """

    # Strict: pydantic would otherwise take "12" and true for numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    value: float | int | None
    unit: str
    low: float | None = None
    high: float | None = None
    valid: bool = True
    reason: str | None = None

    @field_validator("value", "low", "high", mode="before")
    @classmethod
    def _of_python(cls, value: Any) -> Any:
        return as_scalar(value)

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if self.value is None and not self.reason:
            raise ValueError("a missing value needs a reason")
        # json reads NaN and Infinity, although they are no JSON.
        if any(x is not None and not math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError("a value must be finite; write null with a reason instead")
        if not self.valid and not self.reason:
            raise ValueError("an invalid metric needs a reason")
        return self

    @property
    def shown(self) -> float | int | None:
        """The value if a table may show it, else None."""
        return self.value if self.valid else None


def missing(unit: str, reason: str) -> Metric:
    """A metric that could not be measured, and why."""
    return Metric(value=None, unit=unit, valid=False, reason=reason)


class Labels(BaseModel):
    """Which cell of the matrix a record belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    experiment: str
    hardware: str  # nvidia-h200, or as in `bench.records.environment`
    task: str
    backbone: str
    method: str
    variant: str = ""  # what differs from the method's defaults: "num_experts=16"
    seed: int = Field(ge=0)
    device: Device = "cpu"  # a fake reading never enters a table


class QualityLabel(BaseModel):
    """How to read `infer/quality`: which way is better, what guessing and known baselines reach."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    direction: Literal["higher", "lower"]
    chance: float | None = None
    references: dict[str, float] = Field(default_factory=dict)
    more: list[str] = Field(default_factory=list)  # further scores: `catalogue.quality_key`


class PointResult(BaseModel):
    """One operating point of the trained model: its settings and what was measured there."""

    model_config = ConfigDict(extra="forbid", strict=True)

    settings: dict[str, float | int | str]
    metrics: dict[str, Metric]


class Record(BaseModel):
    """Everything a trial leaves behind. `metrics` are those of the default operating point."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str  # first, so that a resume need not parse the whole file
    status: Status
    schema_version: Literal[1] = SCHEMA_VERSION
    reason: str | None = None  # of skipped and failed
    labels: Labels
    config: dict[str, Any]
    environment: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    quality: QualityLabel | None = None
    points: list[PointResult] = Field(default_factory=list)
    diagnostics: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)  # e.g. "quality is at chance level"

    @field_validator("notes")
    @classmethod
    def _in_todays_words(cls, notes: list[str]) -> list[str]:
        return [FORMER_NOTES.get(note, note) for note in notes]

    @property
    def is_fake(self) -> bool:
        """Whether a stand-in for a device measured any of it: such a record enters no table."""
        energy = self.diagnostics.get("energy")
        entries = energy if isinstance(energy, list) else []
        windows = [each for each in entries if isinstance(each, dict)]
        named = (self.labels.device, *(each.get("device") for each in windows))
        return any("fake" in str(name).casefold() for name in named)

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a {self.status} record needs a reason")
        return self


def write_record(folder: Path, record: Record) -> Path:
    """Write `record.json` into `folder` atomically; returns its path."""
    return write_json(folder / RECORD_NAME, record.model_dump(mode="json"))


def write_json(path: Path, content: Any) -> Path:
    """Write strict JSON (no NaN) atomically. Raises ValueError for what no reader would take."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    encoded = text.encode("utf-8")
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"{len(encoded):,} bytes of JSON: a reader takes {MAX_BYTES:,}")
    return replace_file(path, encoded)


def read_record(path: Path) -> Record:
    """Read and validate one record file. Raises BadRecord naming the file and what is wrong."""
    try:
        content = read_json(path)
    except OSError as error:
        raise BadRecord(f"{path}: not readable ({error.strerror})") from error
    except ValueError as error:
        raise BadRecord(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise BadRecord(f"{path}: not a condbench record (no schema_version)")
    version = content["schema_version"]
    if isinstance(version, bool) or version != SCHEMA_VERSION:  # true is equal to 1
        raise BadRecord(
            f"{path}: schema version {version!r}, this condbench reads {SCHEMA_VERSION}"
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        # One place is enough to find the damage; the whole list of a torn file is long.
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise BadRecord(f"{path}: {where}: {first['msg']}") from error
    except OverflowError as error:
        raise BadRecord(f"{path}: a number is too large ({error})") from error


def read_state(folder: Path) -> tuple[str, str] | None:
    """(key, status) of the record in `folder` without parsing it whole; None if there is none.

    Raises BadRecord when the file does not begin and end like a record.
    """
    path = folder / RECORD_NAME
    try:
        with open_regular(path) as file:
            # Key and status are the first two fields, the key of 64 characters.
            head = file.read(400).decode("utf-8", errors="replace")
            file.seek(max(0, path.stat().st_size - 2))
            end = file.read()
    except FileNotFoundError:
        return None
    if not end.rstrip().endswith(b"}"):
        raise BadRecord(f"{path}: cut off: does not end like a condbench record")
    parts = head.split('"', 9)
    if len(parts) < 9 or parts[1] != "key" or parts[5] != "status":
        raise BadRecord(f"{path}: does not begin like a condbench record")
    return parts[3], parts[7]
