"""Contracts about FLOPs: what decisions declare is executed, and what they skip is saved."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench import routing
from bench.check.candidate import CROWD, FEW, Candidate
from bench.check.comparison import at, must_decide
from bench.check.contract import Broken
from bench.check.contracts.skipping import at_random
from bench.check.function_modes import staying_in_torch
from bench.check.gradients import num_elements, parameters_moving
from bench.meters.flops.counter import FlopCount, count
from bench.meters.flops.formulas.elementwise import may_hide_products
from bench.routing import Decision, Observation
from bench.types import Batch

LINEAR = 0.01  # how far executed FLOPs may be from the declared ones, as a share of them


@dataclass(frozen=True)
class PassCost:
    """One pass: what was counted, FLOPs that its decisions declare, and the decisions."""

    counted: FlopCount
    declared: float
    seen: Observation

    @property
    def executed(self) -> int:
        """FLOPs."""
        return self.counted.total

    @property
    def gate(self) -> str | None:
        """The first gate that decided."""
        return self.seen.decisions[0].name if self.seen.decisions else None


def count_pass(candidate: Candidate, model: Any, batch: Batch) -> PassCost:
    """Count one pass. Raises Broken for an operation without a formula, of torch or not."""
    staying: AbstractContextManager[Any] = staying_in_torch(candidate.cls)
    if candidate.resolved.flags.reads_targets:
        staying = nullcontext()  # hindsight recognises a sample by its bytes, outside torch
        with torch.inference_mode():
            model(batch)  # the first pass searches for a route, the counted one executes it
    with torch.inference_mode(), routing.observe() as seen, staying:
        counted = count(model, batch)
    if counted.ops_without_formula:
        names = ", ".join(sorted(counted.ops_without_formula))
        raise Broken(f"{names}: no FLOP formula (bench.routing.register_formula adds one)")
    candidate.plugin_formula_ops.update(counted.by_plugin)
    return PassCost(counted, candidate.declared_flops(model, seen), seen)


def executed_is_declared(candidate: Candidate) -> None:
    """FLOPs above those with closed gates are the declared ones; in a batch the saving is real."""
    alone = candidate.tiny.batch(1, 7)
    batches = [candidate.tiny.batch(size) for size in (CROWD, FEW)]  # at all points the first
    dense = candidate.backbone.build(candidate.tiny.spec).eval()
    with torch.inference_mode():  # the counts do not depend on weights: untrained is enough
        whole = [count(dense, batch) for batch in batches]
    _must_decide_in_region(candidate, alone)
    for number, (point, model) in enumerate(candidate.at_points()):
        closed = _closed_flops(candidate, model, alone, f"its own{at(point)}")
        _must_save_when_closed(candidate, model, dense, alone, closed)
        for batch, plain in list(zip(batches, whole, strict=True))[: 1 if number else None]:
            what = f"its own decisions{at(point)} save"
            _must_hide_no_product(_must_save_in_batch(candidate, model, batch, what), plain, batch)
    # Own decisions may be all open after four steps; random ones skip for certain.
    with at_random(0.5):
        _closed_flops(candidate, candidate.model, alone, "random")
        for batch in batches:
            _must_save_in_batch(candidate, candidate.model, batch, "half of the decisions save")


class _Regions(list[Decision]):
    """A list of decisions that notes in which region each gate announced them."""

    def __init__(self) -> None:
        super().__init__()
        self.by_gate: dict[str, str] = {}

    def append(self, decision: Decision) -> None:
        super().append(decision)
        self.by_gate.setdefault(decision.name, routing.current_region())


def _must_decide_in_region(candidate: Candidate, batch: Batch) -> None:
    regions, model = _Regions(), candidate.model.eval()
    with torch.no_grad(), routing.observe() as seen:
        seen.decisions = regions
        model(batch)
    for gate, region in regions.by_gate.items():
        if region not in routing.GATE_REGIONS:
            raise Broken(
                f"gate {gate!r} decides in the region {region!r}: put what computes a decision, "
                'decide included, inside region("router") or region("exit_head"), or its FLOPs '
                "and gradients are taken for the model's",
                gate=gate,
            )


def _closed_flops(candidate: Candidate, model: Any, batch: Batch, how: str) -> PassCost:
    """What a pass with closed gates spends. Raises Broken unless the rest is what is declared."""
    # One sample: in a batch a capacity or a sort could round what a decision costs.
    own = count_pass(candidate, model, batch)
    must_decide(own.seen)
    with routing.force("closed"):
        closed = count_pass(candidate, model, batch)
    executed = own.executed - closed.executed
    # Where exactly one choice runs, closed gates run the cheapest, and declare it.
    declared = own.declared - closed.declared
    if abs(executed - declared) > LINEAR * max(declared, abs(executed)):
        raise Broken(
            f"a sample alone, {how} decisions: they declare {declared:,.0f} FLOPs, but "
            f"{executed:,} are executed above the {closed.executed:,} with every gate closed"
            + (
                " (computed and masked, or the result of decide is not obeyed)"
                if not executed
                else ""
            ),
            gate=own.gate,
        )
    return closed


def _must_save_when_closed(
    candidate: Candidate, model: nn.Module, dense: nn.Module, batch: Batch, closed: PassCost
) -> None:
    """Closing gates leaves work out, and what is left is less than the whole dense model.

    Unless parts beyond the dense model are what the gates skip: then all of that still counts.
    """
    with routing.force("open"):
        opened = count_pass(candidate, model, batch)
    if opened.executed == closed.executed:
        raise Broken(
            f"masked: {opened.executed:,} FLOPs are executed with every gate open and with every "
            "gate closed",
            gate=opened.gate,
        )
    with torch.inference_mode():
        whole = count(dense, batch).total
    spent = _outside_gates(closed.counted)
    if spent < whole:
        return
    # As much as the dense model: legitimate only if all of it still counts for the result.
    with routing.force("closed"):
        used = num_elements(model, parameters_moving(model, model(batch).logits))
    needed = num_elements(dense, parameters_moving(dense, dense(batch).logits))
    if used < needed:
        raise Broken(
            f"with every gate closed {spent:,} FLOPs are executed besides the gates' own, as many "
            f"as the dense model's {whole:,}, but only {used:,} parameters of its {needed:,} "
            "still count: computed for nothing",
            gate=opened.gate,
        )


def _outside_gates(counted: FlopCount) -> int:
    """FLOPs of everything that does not decide."""
    return counted.total - sum(counted.by_region.get(name, 0) for name in routing.GATE_REGIONS)


def _must_save_in_batch(candidate: Candidate, model: Any, batch: Batch, what: str) -> PassCost:
    """What a pass spends. Raises Broken where much less is saved than is declared."""
    # Both savings are shares of the same open pass, so that fixed costs weigh alike.
    own = count_pass(candidate, model, batch)
    with routing.force("open"):
        opened = count_pass(candidate, model, batch)
    declared = (opened.declared - own.declared) / opened.executed
    executed = (opened.executed - own.executed) / opened.executed
    if executed < declared - routing.SHORTFALL:
        raise Broken(
            f"masked: in a batch of {len(batch)} {what} {declared:.0%} of the FLOPs as declared, "
            f"and {executed:.0%} as counted",
            gate=own.gate,
        )
    return own


def _must_hide_no_product(own: PassCost, dense: FlopCount, batch: Batch) -> None:
    # A product written as multiplication and sum would be counted as free elementwise work.
    written = own.counted.pointwise_elems
    if may_hide_products(written, dense.pointwise_elems, dense.total, own.counted.total):
        raise Broken(
            f"in a batch of {len(batch)} elementwise operations write {written:,} elements, the "
            f"dense model's {dense.pointwise_elems:,}: a product by multiplication and sum is a "
            "product (use matmul or einsum, which are counted)"
        )
