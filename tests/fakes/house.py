"""Plugins for tests of the planner: settings without any model.

The `house` fixture copies this file into a distribution of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass
class Dense:
    """The unchanged backbone."""

    def build(self, spec, backbone):
        raise NotImplementedError


@dataclass
class Inner:
    rate: float = 0.5


@dataclass
class MoE:
    """Mixture of experts, on paper."""

    num_experts: int = 8
    top_k: int = 1
    hidden: str | None = None
    widths: list[int] = field(default_factory=lambda: [1, 2])
    router: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ValueError("no expert")

    def build(self, spec, backbone):
        raise NotImplementedError


class Order(StrEnum):
    """The order of two things."""

    TOKENS = "tokens first"
    EXPERTS = "experts first"


@dataclass
class Ordered:
    """Settings that are names of an enumeration, alone and inside others."""

    order: Order = Order.TOKENS
    maybe: Order | None = None
    several: list[Order] = field(default_factory=lambda: [Order.EXPERTS])
    named: dict[str, Order] = field(default_factory=dict)

    def build(self, spec, backbone):
        raise NotImplementedError


@dataclass
class Control:
    """A control: another method with one part removed."""

    of: str = "moe"

    def build(self, spec, backbone):
        raise NotImplementedError


@dataclass
class Transformer:
    """A backbone on paper."""

    depth: int = 4

    def build(self, spec, **parts):
        raise NotImplementedError


@dataclass
class Digits:
    """A task on paper."""

    canvas: int = 16

    def data_hash(self) -> str:
        return f"data-{self.canvas}"

    def evaluate(self, model, batches):
        raise NotImplementedError


@dataclass
class Text:
    """Another task."""

    def data_hash(self) -> str:
        return "text"

    def evaluate(self, model, batches):
        raise NotImplementedError
