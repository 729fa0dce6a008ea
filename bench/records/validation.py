"""What a record needs besides valid metrics: its configuration, identity and environment.

A record states itself what must be equal before two numbers may be compared or averaged. Where
that is missing or has another type, the record is damaged, whatever its metrics are.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.records.record import Record


class Identity(BaseModel):
    """What makes a trial the same trial: all of it is compared, except the code."""

    config: dict[str, Any]
    versions: dict[str, str]
    hardware: str  # the class, as in folders: cpu-2x-epyc-f26m2s1-...
    data: Any  # a hash, or one per split: compared for equality only


class Environment(BaseModel):
    """The machine's state. Every field is optional: a process that died recorded none."""

    # Strict: pydantic would otherwise read "8" as 8 cores, and 8 -> "8" would be no difference.
    model_config = ConfigDict(strict=True)

    cpu_model: str | None = None
    cpu: dict[str, Any] | None = None  # absent in records of before
    num_cores: int | None = None
    num_threads: int | None = None
    memory_bytes: int | None = None
    kernel: str | None = None
    governor: str | None = None
    thread_settings: dict[str, str | None] = {}
    gpus: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    git_commit: str | None = None


class Measure(BaseModel):
    """The part of `config.measure` that a reader computes with; the rest is only shown."""

    model_config = ConfigDict(strict=True)

    batch_sizes: list[Annotated[int, Field(ge=1)]] = []


class Config(BaseModel):
    """The configuration as far as a reader depends on its types."""

    measure: Measure = Measure()


def damage(record: Record) -> str | None:
    """The first thing wrong with `record`, such as "environment.gpus: ..."; None if nothing is."""
    # The identity first: without it the other two have no meaning for a comparison.
    for place, model, content in (
        ("provenance.identity", Identity, record.provenance.get("identity")),
        ("environment", Environment, record.environment),
        ("config", Config, record.config),
    ):
        if content is None:
            return f"{place} is missing, so that the measured configuration is unknown"
        if error := first_error(model, content, place):
            return error
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
