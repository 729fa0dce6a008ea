"""The running totals of one count: FLOPs by region and op, and ops without a formula."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._ops import OpOverload

from bench import routing
from bench.meters.flops.call import Cost
from bench.meters.flops.unwritten import Unwritten

BACKWARD = "backward"  # region of gradient work outside every named region
OUTSIDE = "outside"  # namespace of flags: what computed without torch's dispatcher
OnProduct = Callable[[OpOverload, tuple[Any, ...], dict[str, Any]], None]  # op, args, kwargs


class MissingFormulaError(Exception):
    """A strict count met an op without a formula; the message names it and the remedy."""

    def __init__(self, name: str) -> None:
        # Names are `namespace::op`; the ledger and its neighbours flag other work in four more
        # namespaces, each with its own remedy.
        kind, _, detail = name.partition("::")
        if kind == "thread":
            remedy = f"work in the thread {detail} was not seen: start it inside what is counted"
        elif kind == "prim":
            remedy = f"TorchScript runs {name} itself: count the module as it was before freezing"
        elif kind == OUTSIDE:
            remedy = (
                f"{detail} computed outside torch's dispatcher, or used what did: count the model "
                "as it was before it was packed, exported or compiled, or register its kernel "
                "with torch.library and the cost with bench.routing.register_formula"
            )
        elif kind == "higher_order":
            remedy = f"what the higher-order operator {detail} runs was not seen"
        else:
            remedy = (
                f"{name} has no FLOP formula and is not declared free: register its cost "
                f"with bench.routing.register_formula(torch.ops.{kind}.{detail}, "
                "lambda args, kwargs, output: ...)"
            )
        super().__init__(f"{remedy}; or count with strict=False and read ops_without_formula")


@dataclass
class Tally:
    """What one count has recorded so far, by all its threads."""

    strict: bool = False
    formulas: Mapping[Any, routing.Formula] = field(default_factory=dict)  # plugins', by op
    on_product: OnProduct | None = None  # called with every op that has FLOPs, after it ran
    flops: Counter[tuple[str, str]] = field(default_factory=Counter)  # (region, op)
    by_plugin: Counter[str] = field(default_factory=Counter)  # of these, by plugins' formulas
    by_sparse: Counter[str] = field(default_factory=Counter)  # of these, with a sparse operand
    by_format: Counter[str] = field(default_factory=Counter)  # FLOPs by the narrowest operand's
    without_formula: Counter[str] = field(default_factory=Counter)
    masked: int = 0  # FLOPs on the causally masked half of attention
    elements: int = 0  # written by elementwise ops
    num_bytes: int = 0
    num_ops: int = 0
    unwritten: Unwritten = field(default_factory=Unwritten)
    num_pending: int = 0  # pieces of work sent to other threads and not finished
    counted_threads: set[int] = field(default_factory=set)  # native ids of those with a ledger
    # Re-entry is impossible: nothing under the lock dispatches an op.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def flag(self, name: str) -> None:
        """Record work without a formula. Raises MissingFormulaError when strict."""
        with self.lock:
            self.without_formula[name] += 1
        if self.strict:
            raise MissingFormulaError(name)

    def book_by_plugin(self, op: str, cost: Cost) -> None:
        """Record that these FLOPs rest on a plugin's formula; `book` adds them to the total."""
        with self.lock:
            self.by_plugin[op] += cost.full

    def book_format(self, number_format: str, cost: Cost) -> None:
        """Record in which number format these FLOPs are; `book` adds them to the total."""
        with self.lock:
            self.by_format[number_format] += cost.full

    def book_sparse(self, op: str, cost: Cost) -> None:
        """Record that these FLOPs have a sparse operand; `book` adds them to the total."""
        with self.lock:
            self.by_sparse[op] += cost.full

    def book(
        self, op: str, cost: Cost | None, elements: int, num_bytes: int, masked: int = 0
    ) -> None:
        """Record one executed op; `cost` is None where it has no FLOPs.

        `masked` adds FLOPs on masked pairs that only several ops together show.
        """
        with self.lock:
            self.num_ops += 1
            self.elements += elements
            self.num_bytes += num_bytes
            self.masked += masked
            if cost is not None:
                self.flops[_region(), op] += cost.full
                self.masked += cost.full - cost.causal


def _region() -> str:
    """The named region, or `backward` for gradient work outside any."""
    # The autograd engine has a task id only while it runs a backward pass, in its own threads too.
    name = routing.current_region()
    in_backward = name == "backbone" and torch._C._current_graph_task_id() != -1
    return BACKWARD if in_backward else name
