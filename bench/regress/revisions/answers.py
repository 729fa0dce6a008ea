"""The shape of what a revision says: its plan and its worker's answers, checked as they arrive.

A revision is foreign code: another one may leave a field out. That is said in one sentence, with
its name, where the answer arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.records.record import Labels
from bench.records.validation import Identity

PROTOCOL = 1  # of the worker; another one is another contract


class _Shape(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Opened(_Shape):
    quality: float | None
    quality_unit: str
    direction: Literal["higher", "lower"]
    counts: dict[str, float]
    environment: dict[str, Any]


class Warmed(_Shape):
    pass_s: float = Field(gt=0)
    steady: bool


class Timed(_Shape):
    seconds: float = Field(gt=0)


class Joules(BaseModel):
    joules: float
    doubt: str | None


class Trained(_Shape):
    quality: float | None


ANSWERS: dict[str, type[BaseModel]] = {
    "open": Opened,
    "warm": Warmed,
    "block": Timed,
    "window": Joules,
    "quality": Trained,
}


class Measure(_Shape):
    rounds: int = Field(ge=1)
    batch_sizes: list[int]
    block_ms: float = Field(gt=0)
    energy_window_s: float = Field(gt=0)


class Gpu(_Shape):
    kind: str
    device: str | None


class Settings(_Shape):
    seed: int
    timeout_s: float = Field(gt=0)
    measure: Measure
    gpu: Gpu


class Dense(_Shape):
    checkpoint: str


class Planned(_Shape):
    """A trial.json, as far as a night reads it."""

    labels: Labels
    config: Settings
    identity: Identity
    dense: Dense


def answer_damage(do: str, told: Mapping[str, Any]) -> str | None:
    """What is wrong with the answer to a request; None if nothing is.

    An answer in another protocol, Unsupported and refused energy are whole by themselves.
    """
    other_protocol = do == "open" and told.get("protocol") != PROTOCOL
    if other_protocol or "skipped" in told or "refused" in told:
        return None
    return _damage(ANSWERS[do], told)


def plan_damage(content: Any) -> str | None:
    """What is wrong with a planned trial; None if nothing is."""
    return _damage(Planned, content)


def _damage(shape: type[BaseModel], content: Any) -> str | None:
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}"
    return None
