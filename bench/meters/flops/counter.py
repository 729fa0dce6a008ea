"""The FLOP meter: what a callable really executes, complete or flagged.

    counted = count(model, batch)
    counted.total        executed FLOPs, 2 x MAC, zero padding included, attention full
    counted.by_region    the same by bench.routing region; its values sum to the total
    counted.complete     False: ops_without_formula names what computed and was not counted

Elementwise work, reductions and data movement are no FLOPs here: they are under one per cent of
the arithmetic and most of the time of conditional models, so they have columns of their own
(`pointwise_elems`, `bytes_touched`) and a share of the time meter. Definitions and limits:
docs/explanation/meters.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import routing
from bench.meters.flops.control_flow import interpret_control_flow
from bench.meters.flops.executors import report_executors
from bench.meters.flops.ledger import Ledger
from bench.meters.flops.tally import BACKWARD, OUTSIDE, MissingFormulaError, OnProduct, Tally
from bench.meters.flops.threads import follow_threads, is_counted_here, is_counting
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched

__all__ = [
    "BACKWARD",
    "CONVENTION",
    "FlopCount",
    "MeterStateError",
    "MissingFormulaError",
    "SampleCounts",
    "count",
    "count_samples",
    "is_active",
]

CONVENTION = "2 x MAC, executed, zero padding included, attention counted full"


@dataclass(frozen=True)
class FlopCount:
    """Executed FLOPs of one call, by region and op, and what could not be counted.

    `causal` is the total without the masked half of causal attention. `by_plugin` is the part of
    `by_op` that rests on plugins' formulas, which cannot be verified, `by_sparse` the part with a
    sparse operand. `pointwise_elems` counts elements written by elementwise ops, `bytes_touched`
    operands read and results written. `result` is the call's return value.
    """

    total: int
    by_region: Mapping[str, int]
    by_op: Mapping[str, int]
    ops_without_formula: Mapping[str, int]  # name -> times; also threads that could not be followed
    causal: int
    pointwise_elems: int
    bytes_touched: int
    num_ops: int
    by_plugin: Mapping[str, int]
    by_sparse: Mapping[str, int]
    by_format: Mapping[str, int]  # number format of the narrowest operand: see `formats`
    result: Any = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates: half the FLOPs."""
        return self.total // 2

    @property
    def complete(self) -> bool:
        """Whether every executed op had a formula; if not, the total is a lower bound."""
        return not self.ops_without_formula


@dataclass(frozen=True)
class SampleCounts:
    """Executed FLOPs of a model over several batches: `per_batch` in their order, the rest summed.

    With batches of one sample this is the distribution over the inputs.
    """

    per_batch: tuple[int, ...]
    by_region: Mapping[str, int]
    by_op: Mapping[str, int]
    ops_without_formula: Mapping[str, int]
    causal: int
    pointwise_elems: int
    bytes_touched: int

    @property
    def total(self) -> int:
        """FLOPs of all batches together."""
        return sum(self.per_batch)

    @property
    def complete(self) -> bool:
        """Whether every executed op of every batch had a formula."""
        return not self.ops_without_formula


def count(
    fn: Callable[..., Any],
    *args: Any,
    strict: bool = False,
    on_product: OnProduct | None = None,
    **kwargs: Any,
) -> FlopCount:
    """Run `fn(*args, **kwargs)` once and count the FLOPs that it executes, in any of its threads.

    Counting changes neither results nor random numbers. `strict` raises MissingFormulaError at the
    first op that computes and has no formula; otherwise `complete` is False. `on_product` is called
    with every op that has FLOPs, its arguments and keyword arguments, in the region that it ran in.
    Raises MeterStateError under another dispatch mode (another count is one) or a torch profiler.
    """
    refuse_if_dispatch_watched("FLOPs")
    tally = Tally(strict=strict, formulas=_plugin_formulas(), on_product=on_product)
    Ledger.rules.refresh()  # a plugin may have registered ops since the last count
    executors = report_executors()
    # The ledger is innermost: it must be on top of the mode stack while `fn` runs.
    with follow_threads(tally), interpret_control_flow(is_counted_here), executors, Ledger(tally):
        result = fn(*args, **kwargs)
    if tally.unwritten.is_in(result):
        tally.flag(f"{OUTSIDE}::result")
    if strict and tally.without_formula:  # met in another thread, which could not raise here
        raise MissingFormulaError(next(iter(tally.without_formula)))
    return _flop_count(tally, result)


def count_samples(
    model: Callable[[Any], Any], batches: Iterable[Any], *, strict: bool = False
) -> SampleCounts:
    """Count `model(batch)` for each of `batches`: one sample each for the per-sample vector.

    The model runs in the mode that it is in: to count inference, call this in evaluation mode and
    without gradients. Raises as `count` does.
    """
    per_batch: list[int] = []
    by_region, by_op, unknown = Counter[str](), Counter[str](), Counter[str]()
    causal = elements = num_bytes = 0
    for batch in batches:
        counted = count(model, batch, strict=strict)
        per_batch.append(counted.total)
        by_region.update(counted.by_region)
        by_op.update(counted.by_op)
        unknown.update(counted.ops_without_formula)
        causal += counted.causal
        elements += counted.pointwise_elems
        num_bytes += counted.bytes_touched
    return SampleCounts(
        tuple(per_batch), dict(by_region), dict(by_op), dict(unknown), causal, elements, num_bytes
    )


def is_active() -> bool:
    """Whether a count is in progress in this process: a timer must not run then."""
    return is_counting()


def _plugin_formulas() -> dict[Any, routing.Formula]:
    """The registered formulas by op."""
    # `torch.library.custom_op` returns a wrapper; the dispatcher reports the op inside it.
    return {getattr(op, "_opoverload", op): formula for op, formula in routing.formulas().items()}


def _flop_count(tally: Tally, result: Any) -> FlopCount:
    by_region, by_op = Counter[str](), Counter[str]()
    for (region, op), flops in tally.flops.items():
        by_region[region] += flops
        by_op[op] += flops
    total = sum(by_region.values())
    return FlopCount(
        total=total,
        by_region=dict(by_region),
        by_op=dict(by_op),
        ops_without_formula=dict(tally.without_formula),
        causal=total - tally.masked,
        pointwise_elems=tally.elements,
        bytes_touched=tally.num_bytes,
        num_ops=tally.num_ops,
        by_plugin=dict(tally.by_plugin),
        by_sparse=dict(tally.by_sparse),
        by_format=dict(tally.by_format),
        result=result,
    )
