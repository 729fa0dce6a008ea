"""How well a model does on a task, and how the task is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.types.data import Direction
from bench.values import (
    FINITE,
    Range,
    as_named_numbers,
    as_named_texts,
    as_number,
    as_numbers,
    as_text,
    as_whole,
)


@dataclass(frozen=True)
class Quality:
    """How well a model does on a task.

    `per_sample` holds one score per evaluated sample where the task has one, in data order, so
    that two methods can be compared pairwise. `chance` is what guessing reaches, `references`
    names trivial or classic baselines in the same unit. `more` holds further scores of the same
    evaluation and direction by name (BLEU beside exact match), in `unit` unless `more_units` says
    otherwise.

    Numbers of numpy and torch become floats. What the model scores (`value`, `per_sample`, `more`)
    may be NaN: the record then holds a missing number, with `reason` where the task gives one.
    Raises TypeError or ValueError, naming the field, for what is not a number, for constants that
    are not finite, and for a `reason` beside a finite value.
    """

    value: float
    unit: str
    direction: Direction
    per_sample: Sequence[float] | None = None
    chance: float | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float] = field(default_factory=dict)
    more_units: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""  # why there is no value

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"Quality.direction is {self.direction!r}: choose 'higher' or 'lower'")
        _set(
            self,
            value=as_number("Quality.value", self.value),
            unit=as_text("Quality.unit", self.unit),
            references=as_named_numbers("Quality.references", self.references, FINITE),
            more=as_named_numbers("Quality.more", self.more),
            more_units=as_named_texts("Quality.more_units", self.more_units),
            reason=as_text("Quality.reason", self.reason),
        )
        if self.reason and math.isfinite(self.value):
            raise ValueError(f"Quality.reason stands for a missing value, which is {self.value:g}")
        if unknown := sorted(self.more_units.keys() - self.more.keys()):
            raise ValueError(f"Quality.more_units names {unknown}, but Quality.more does not")
        if self.per_sample is not None:
            _set(self, per_sample=as_numbers("Quality.per_sample", self.per_sample))
        if self.chance is not None:
            _set(self, chance=as_number("Quality.chance", self.chance, FINITE))

    def beats(self, reference: float) -> bool:
        """Whether the value is strictly better than `reference`."""
        return self.value > reference if self.direction == "higher" else self.value < reference


def _set(frozen: Any, **values: Any) -> None:
    """Replace fields of a frozen dataclass, which its own `__post_init__` alone may do."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


@dataclass(frozen=True)
class Recipe:
    """How a task is trained unless the experiment says otherwise (AdamW, one-cycle).

    Raises TypeError or ValueError, naming the field, for what cannot be trained with.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 0.01
    warmup_share: float = 0.1

    def __post_init__(self) -> None:
        _set(
            self,
            steps=as_whole("Recipe.steps", self.steps, Range(0)),
            batch_size=as_whole("Recipe.batch_size", self.batch_size, Range(1)),
            lr=as_number("Recipe.lr", self.lr, Range(gt=0)),
            weight_decay=as_number("Recipe.weight_decay", self.weight_decay, Range(0)),
            warmup_share=as_number("Recipe.warmup_share", self.warmup_share, Range(0, 1)),
        )
