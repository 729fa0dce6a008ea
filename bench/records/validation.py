"""The shape of what a comparison reads beside metrics: identity and environment of a record.

A record says of itself what must be equal on both sides. Without it, or with something else in its
place, nothing can be compared: bad input, whatever the numbers are.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.records.record import Record


class Identity(BaseModel):
    """What makes a trial the same trial: all of it is compared, except the code."""

    config: dict[str, Any]
    versions: dict[str, str]
    hardware: str
    data: Any


class Environment(BaseModel):
    """The machine's state. A trial that died left none of it."""

    model_config = ConfigDict(strict=True)

    cpu_model: str | None = None
    num_cores: int | None = None
    num_threads: int | None = None
    memory_bytes: int | None = None
    kernel: str | None = None
    governor: str | None = None
    thread_settings: dict[str, str | None] = {}
    gpus: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    git_commit: str | None = None


def damage(record: Record) -> str | None:
    """What of `record` is not as it must be, such as "environment.gpus: ..."; None if all is."""
    for place, model, content in (
        ("provenance.identity", Identity, record.provenance.get("identity")),
        ("environment", Environment, record.environment),
    ):
        if content is None:
            return f"{place} is missing: nothing says under which configuration it was measured"
        try:
            model.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            return f"{'.'.join([place, *map(str, first['loc'])])}: {first['msg']}"
    return None
