"""A model's products alone: what a pass takes that does nothing but them.

The operations that have FLOPs are recorded in a pass over real inputs, then run again one after the
other without anything in between: same operation, shapes, strides, number formats and weights.
Other operands are numbers drawn once, in memory that all products of a model share, because a pass
also finds them where the operation before has just written them.

Products inside `ROUTING` are left out: their time is that of their region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_unflatten

from bench import routing
from bench.meters.conditions import evaluation_mode, gc_disabled
from bench.meters.flops.counter import count
from bench.meters.guard import refuse_if_watched
from bench.meters.memory.attributes import find_kept_tensors
from bench.meters.memory.storages import is_plain
from bench.meters.time.stopwatch import Stopwatch, device_of, stopwatch_for

ROUTING = ("router", "dispatch", "combine")  # regions of what a conditional pass has in addition
REPEATS = 5  # passes of either kind; a batch counts with its medians
MAX_BATCHES = 16  # of a pass: shares of a pass need fewer inputs than its time
Model = Callable[[Any], object]


@dataclass(frozen=True)
class ProductShare:
    """Of a model's pass: the share of time that its products take alone, and of FLOPs in routing.

    The first is without products inside `ROUTING`. `time` may exceed 1 where they take longer alone
    than in the pass, by noise or because the stand-ins are further away than what a pass reads.
    """

    time: float
    routing_flops: float
    num_products: int  # of all batches


@dataclass
class Recording:
    """The products of one model, each with operands to run it again."""

    weights: frozenset[int]  # addresses of the storages of weights
    calls: list[Callable[[], object]] = field(default_factory=list)  # of the current batch
    pools: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)  # numbers to stand in

    def add(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a product that has just run, unless it is a part of routing."""
        if routing.current_region() in ROUTING:
            return
        leaves, structure = tree_flatten((args, kwargs))
        # What writes to an operand must not write to a weight.
        weights = frozenset() if op._schema.is_mutable else self.weights
        leaves = [self._operand(leaf, place, weights) for place, leaf in enumerate(leaves)]
        args, kwargs = tree_unflatten(leaves, structure)
        self.calls.append(partial(op, *args, **kwargs))

    def _operand(self, value: Any, place: int, weights: frozenset[int]) -> Any:
        """`value` itself or, for what a pass computes, numbers of the same layout.

        Indices, offsets and masks stay: they decide how much an operation does.
        """
        if not isinstance(value, Tensor) or not is_plain(value):
            return value
        if not (value.is_floating_point() or value.is_complex()):
            return value
        if value.untyped_storage().data_ptr() in weights:
            return value
        extent = 1 + sum(
            (n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)
        )
        # By place: both operands of a product are read from memory, not one of them twice.
        numbers = self._numbers((place, value.dtype, value.device), max(extent, 0))
        return numbers.as_strided(value.shape, value.stride())

    def _numbers(self, kind: tuple[Any, ...], num: int) -> Tensor:
        """At least `num` numbers for a place, number format and device."""
        pool = self.pools.get(kind)
        if pool is None or len(pool) < num:
            _, dtype, device = kind
            # Not what lies in new memory: products of denormal numbers are slow on a CPU. A
            # generator of its own: a model may draw from torch's.
            like = torch.complex64 if dtype.is_complex else torch.float32
            drawn = torch.randn(num, dtype=like, generator=torch.Generator().manual_seed(0))
            pool = self.pools[kind] = drawn.to(device, dtype)
        return pool


def product_share(
    model: Model,
    batches: Sequence[Any],
    *,
    budget_s: float = 0.2,
    stopwatch: Stopwatch | None = None,
) -> ProductShare:
    """The share of a pass over `batches` that the model's products alone take.

    Pass and products run alternately, batch by batch, in evaluation and inference mode. Of up to
    MAX_BATCHES batches, evenly spread, as many are used as REPEATS passes and products of them fit
    into `budget_s`, and at least one. Raises ValueError for a model without products, and
    MeterStateError under a dispatch mode or profiler.
    """
    refuse_if_watched("time of products")
    watch = stopwatch or stopwatch_for(device_of(batches[0]))
    with evaluation_mode(model), gc_disabled():
        chosen = _chosen(model, batches, budget_s, watch)
        products, share, num_products = _record(model, chosen)
        # [repeat, batch, pass or products]
        seconds = np.array(
            [_repeat(model, chosen, products, watch, number) for number in range(REPEATS)]
        )
    whole_s, alone_s = np.median(seconds, axis=0).sum(axis=0)
    return ProductShare(float(alone_s / whole_s), share, num_products)


def _chosen(model: Model, batches: Sequence[Any], budget_s: float, watch: Stopwatch) -> list[Any]:
    """Some of `batches`, evenly spread, by the time of the first one: it runs twice."""
    model(batches[0])
    one_s = watch.measure(partial(model, batches[0])).host_s
    affordable = budget_s / (2 * REPEATS * one_s) if one_s > 0 else len(batches)
    num = max(1, min(int(affordable), MAX_BATCHES, len(batches)))
    return [batches[place * len(batches) // num] for place in range(num)]


def _record(model: Model, batches: Iterable[Any]) -> tuple[list[Callable[[], None]], float, int]:
    """A function per batch that runs its products; FLOPs in routing / all; how many products."""
    recording = Recording(_weights(model))
    products: list[Callable[[], None]] = []
    num_products = total = in_routing = 0
    for batch in batches:
        recording.calls = []
        counted = count(model, batch, on_product=recording.add)
        products.append(partial(_run, recording.calls))
        num_products += len(recording.calls)
        total += counted.total
        in_routing += sum(counted.by_region.get(name, 0) for name in ROUTING)
    if not num_products:
        raise ValueError("the model runs no products outside routing")
    return products, in_routing / total, num_products


def _weights(model: Model) -> frozenset[int]:
    """Addresses of the storages that hold parameters, buffers and weights kept elsewhere."""
    if not isinstance(model, nn.Module):
        return frozenset()
    held = (*model.parameters(), *model.buffers(), *find_kept_tensors(model))
    return frozenset(each.untyped_storage().data_ptr() for each in held if is_plain(each))


def _run(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()


def _repeat(
    model: Model,
    batches: Sequence[Any],
    products: Sequence[Callable[[], None]],
    watch: Stopwatch,
    number: int,
) -> list[tuple[float, float]]:
    """Seconds of each batch's pass and of its products; either comes first in turn."""
    taken = []
    for batch, alone in zip(batches, products, strict=True):
        works = (partial(model, batch), alone)
        first = number % 2
        spent = {which: watch.measure(works[which]).host_s for which in (first, 1 - first)}
        taken.append((spent[0], spent[1]))
    return taken
