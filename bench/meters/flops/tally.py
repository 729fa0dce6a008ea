"""The book of one count: FLOPs by region and op, and what nobody knows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import routing
from bench.meters.flops.call import Cost

BACKWARD = "backward"  # region of gradient work outside every named region


class MissingFormulaError(Exception):
    """Strict counting met work whose cost nobody knows; the message names it and the way out."""

    def __init__(self, name: str) -> None:
        kind, _, detail = name.partition("::")
        if kind == "thread":
            way_out = f"work in the thread {detail} was not seen: start it inside what is counted"
        elif kind == "prim":
            way_out = f"TorchScript runs {name} itself: count the module as it was before freezing"
        elif kind == "higher_order":
            way_out = f"what the higher-order operator {detail} runs was not seen"
        else:
            way_out = (
                f"{name} has no FLOP formula and is not declared to cost nothing: tell its cost "
                f"with bench.routing.register_formula(torch.ops.{kind}.{detail}, "
                "lambda args, kwargs, output: ...)"
            )
        super().__init__(f"{way_out}; or count with strict=False and read ops_without_formula")


@dataclass
class Tally:
    """What one count has booked so far, by all its threads."""

    strict: bool = False
    formulas: Mapping[Any, routing.Formula] = field(default_factory=dict)  # plugins', by op
    flops: Counter[tuple[str, str]] = field(default_factory=Counter)  # (region, op)
    told: Counter[str] = field(default_factory=Counter)  # of these, by plugins' word, by op
    unknown: Counter[str] = field(default_factory=Counter)
    masked: int = 0  # FLOPs on the causally masked half of attention
    elements: int = 0  # written by elementwise ops
    num_bytes: int = 0
    num_ops: int = 0
    num_carried: int = 0  # pieces of work sent to other threads and not finished
    followed: set[int] = field(default_factory=set)  # native ids of threads that carried a ledger
    lock: threading.Lock = field(default_factory=threading.Lock)

    def flag(self, name: str) -> None:
        """Book something whose cost is not known. Raises MissingFormulaError when strict."""
        with self.lock:
            self.unknown[name] += 1
        if self.strict:
            raise MissingFormulaError(name)

    def book_told(self, op: str, cost: Cost) -> None:
        """Note that these FLOPs rest on a plugin's word; `book` adds them."""
        with self.lock:
            self.told[op] += cost.full

    def book(self, op: str, cost: Cost | None, elements: int, num_bytes: int) -> None:
        """Book one executed op; `cost` is None where it has no FLOPs."""
        with self.lock:
            self.num_ops += 1
            self.elements += elements
            self.num_bytes += num_bytes
            if cost is not None:
                self.flops[_region(), op] += cost.full
                self.masked += cost.full - cost.causal


def _region() -> str:
    """The named region, or `backward` for gradient work outside any."""
    name = routing.current_region()
    in_backward = name == "backbone" and torch._C._current_graph_task_id() != -1
    return BACKWARD if in_backward else name
