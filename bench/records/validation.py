"""What a record needs besides valid metrics: its configuration, identity and environment.

A record states itself what must be equal before two numbers may be compared or averaged. Where
that is missing or has another type, the record is damaged, whatever its metrics are. A valid number
that its interval or the catalogue contradicts was changed after it was measured: a trial withholds
such a number, so that no record of ours has one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from bench.config import Config
from bench.records.contradiction import contradiction
from bench.records.record import Record
from bench.values import check_limits, type_hints

CLOCK_TOLERANCE_S = 86_400.0  # between the machine that measured and the one that reads
FIELDS = "__dataclass_fields__"  # what makes a class a dataclass
COUNT = Annotated[int, Field(ge=1)]


class Identity(BaseModel):
    """What makes a trial the same trial: all of it is compared, except the code."""

    model_config = ConfigDict(strict=True)

    config: dict[str, Any]
    versions: dict[str, str]
    hardware: str  # the class, as in folders: cpu-2x-epyc-f26m2s1-...
    data: Any  # a hash, or one per split: compared for equality only


class Gpu(BaseModel):
    """A GPU as NVML showed it; null stands for what a board does not report."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    memory_bytes: COUNT | None = None
    power_limit_w: Annotated[float, Field(ge=0)] | None = None


class Environment(BaseModel):
    """The machine's state. Every field is optional: a process that died recorded none."""

    # Strict: pydantic would otherwise read "8" as 8 cores, and 8 -> "8" would be no difference.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    cpu_model: str | None = None
    cpu: dict[str, Any] | None = None  # absent in records of before
    num_cores: COUNT | None = None
    num_physical_cores: COUNT | None = None
    num_threads: COUNT | None = None
    world_size: COUNT | None = None
    memory_bytes: COUNT | None = None
    load_1min: Annotated[float, Field(ge=0)] | None = None
    kernel: str | None = None
    governor: str | None = None
    thread_settings: dict[str, str | None] = {}
    numerics: dict[str, str | bool | None] | None = None
    gpus: list[Gpu] = []
    versions: dict[str, str] = {}
    git_commit: str | None = None


class Provenance(BaseModel):
    """When the trial ran. Null or absent: the time of the file stands in."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    started_unix_s: Annotated[float, Field(ge=0)] | None = None
    duration_s: Annotated[float, Field(ge=0)] | None = None


def damage(record: Record) -> str | None:
    """The first thing wrong with `record`, such as "environment.gpus: ..."; None if nothing is."""
    # The identity first: without it the others have no meaning for a comparison.
    for place, model, content in (
        ("provenance.identity", Identity, record.provenance.get("identity")),
        ("provenance", Provenance, record.provenance),
        ("environment", Environment, record.environment),
    ):
        if content is None:
            return f"{place} is missing, so that the measured configuration is unknown"
        if error := first_error(model, content, place):
            return error
    return _from_the_future(record) or _config_error(record) or _metric_error(record)


def _from_the_future(record: Record) -> str | None:
    started = record.provenance.get("started_unix_s") or 0.0
    if started <= time.time() + CLOCK_TOLERANCE_S:
        return None
    try:
        when = f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a time that no calendar shows
        when = f"{started:.3g} s after 1970"
    return f"provenance.started_unix_s: {when} is in the future (by this machine's clock)"


def _config_error(record: Record) -> str | None:
    """Where the configuration has a value that none of ours can have.

    Settings of plugins have types that are not known here. Keys may be missing: the record of an
    earlier version has fewer.
    """
    if error := first_error(_partial(Config), record.config, "config"):
        return error
    try:
        _check_ranges(Config, record.config, "config")
    except ValueError as error:
        return str(error)
    return None


@cache
def _partial(cls: Any) -> type[BaseModel]:
    """A dataclass of the configuration as a model in which no key is required."""
    found = {
        name: _partial(annotation) if hasattr(annotation, FIELDS) else annotation
        for name, annotation in type_hints(cls).items()
    }
    # The settings of a plugin, of any type, are by name.
    fields = {name: (dict[str, Any] if each is Any else each, None) for name, each in found.items()}
    made: type[BaseModel] = create_model(
        cls.__name__,
        __config__=ConfigDict(strict=True),
        **fields,  # type: ignore[call-overload]
    )
    return made


def _check_ranges(cls: Any, values: Mapping[str, Any], place: str) -> None:
    for name, annotation in type_hints(cls).items():
        where = f"{place}.{name}"
        if name in values and hasattr(annotation, FIELDS):
            _check_ranges(annotation, values[name], where)
        elif name in values:
            check_limits(annotation, where, values[name])


def _metric_error(record: Record) -> str | None:
    for place, metrics in (
        ("metrics", record.metrics),
        *((f"points.{number}", point.metrics) for number, point in enumerate(record.points)),
    ):
        for key, metric in metrics.items():
            if metric.valid and (problem := contradiction(key, metric)):
                return f"{place}.{key}: {problem}"
    return None


def first_error(model: type[BaseModel], content: Any, place: str = "content") -> str | None:
    """Where `content` is not as `model` requires, and how: "place.field: message"; None if it is.

    One sentence per file or message is enough to find it: further errors mostly follow from it.
    """
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join([place, *map(str, first['loc'])])}: {first['msg']}"
    return None
