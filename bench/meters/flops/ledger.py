"""The FLOP ledger: a dispatch mode that records every executed op, or flags it.

    op arrives -> own formula -> composite: look inside -> elementwise -> declared free
               -> plugin formula -> flagged as an op without a formula

A plugin's formula for an op of any other kind raises: it could hide work.

Ops run unchanged, on the real inputs, so data-dependent control flow is counted as it happened.
`torch.cond` runs the taken branch only and `while_loop` is interpreted; other higher-order
operators run and are flagged.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from bench import routing
from bench.meters.flops import control_flow
from bench.meters.flops.call import Call, Cost
from bench.meters.flops.dispatch_state import caller_state, run_whole
from bench.meters.flops.formats import number_format
from bench.meters.flops.formulas.math_attention import MathAttention
from bench.meters.flops.formulas.sparse import is_sparse, num_stored
from bench.meters.flops.formulas.table import FORMULAS
from bench.meters.flops.rules import Rule, Rules, leaf_rule
from bench.meters.flops.tally import OUTSIDE, Tally


class Ledger(TorchDispatchMode):
    """Records the ops that its thread dispatches in a tally."""

    # Without this flag torch raises at the first `torch.cond` under the mode.
    supports_higher_order_operators = True
    rules = Rules()  # shared by all ledgers: rules depend on what is registered alone

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally
        self.attention = MathAttention()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        if types and any(_takes_over(kind) for kind in types):
            return NotImplemented  # the subclass runs it; its inner ops come back here
        rule = self.rules.of(func)
        plugin = self._plugin_formula(func) if self.tally.formulas else None
        # An op whose own formula returns None may still have a plugin's: see `_book`.
        if plugin is not None and rule.kind not in ("without_formula", "formula"):
            raise ValueError(_ALREADY_KNOWN.format(rule.name))
        if rule.kind == "composite":
            if not any(isinstance(arg, Tensor) and arg.is_nested for arg in args):
                with caller_state(func), self:
                    return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
            rule = leaf_rule(func)  # nested tensors have kernels of their own
        # Flags come before the op runs: strict counts stop here.
        if plugin is None and rule.kind == "without_formula":
            self.tally.flag(rule.name)
        if self.tally.unwritten.is_read_by(rule, args, kwargs):
            self.tally.flag(f"{OUTSIDE}::{rule.name}")
        output = run_whole(func, args, kwargs)
        self.tally.unwritten.note_allocated(rule, output)
        cost = self._book(rule, args, kwargs, output, plugin)
        if cost is not None and self.tally.on_product is not None:
            self.tally.on_product(func, args, kwargs)
        return output

    def _plugin_formula(self, func: OpOverload) -> routing.Formula | None:
        """The registered formula of the overload, or of all overloads together."""
        formulas = self.tally.formulas
        return formulas.get(func) or formulas.get(func._overloadpacket)

    def _book(
        self, rule: Rule, args: tuple, kwargs: dict, output: Any, plugin: routing.Formula | None
    ) -> Cost | None:
        """Record one executed op in the tally; its cost, None where it has no FLOPs."""
        cost = _own_cost(rule, args, kwargs, output)
        if plugin is not None:
            if cost is not None:
                raise ValueError(_ALREADY_KNOWN.format(rule.name))
            cost = _plugin_cost(plugin, rule.name, args, kwargs, output)
            self.tally.book_by_plugin(rule.name, cost)
        elif cost is None and rule.kind == "formula":
            self.tally.flag(rule.name)
        elif cost is not None and any(map(_is_sparse, args)):
            self.tally.book_sparse(rule.name, cost)
        if cost is not None:
            self.tally.book_format(number_format((*args, *kwargs.values())), cost)
        masked = self.attention.masked_flops(rule.name, args, cost.full if cost else 0)
        written = output if output is not None else args[:1]  # in-place ops over lists return None
        elements = _elements(written) if rule.counts_elements else 0
        num_bytes = _bytes_touched(rule, args, kwargs, output)
        self.tally.book(rule.name, cost, elements, num_bytes, masked)
        return cost

    def _higher_order(self, func: HigherOrderOperator, args: tuple, kwargs: dict) -> Any:
        interpret = control_flow.INTERPRETERS.get(func.name())
        if interpret is not None:
            with self:  # inside its handler a mode is off
                return interpret(*args, **kwargs)
        self.tally.flag(f"higher_order::{func.name()}")
        return func(*args, **kwargs)


def _takes_over(kind: type) -> bool:
    """Whether a tensor class handles dispatched ops itself (nested jagged, quantised, fake)."""
    handler = getattr(kind, "__torch_dispatch__", None)
    return kind is not Tensor and handler is not torch._C._disabled_torch_dispatch_impl


_ALREADY_KNOWN = (
    "a plugin registered a FLOP formula for {}, which the meter counts itself: remove that call of "
    "bench.routing.register_formula"
)


def _own_cost(rule: Rule, args: tuple, kwargs: dict, output: Any) -> Cost | None:
    """The cost by our own formula; None without one, or where the call does not determine it."""
    if rule.kind != "formula":
        return None
    # Not strict: the dispatcher leaves trailing arguments out where they have their defaults.
    arguments = dict(zip(rule.argument_names, args, strict=False)) | kwargs
    flops = FORMULAS[rule.name](Call(rule.name, arguments, output))
    return flops if flops is None or isinstance(flops, Cost) else Cost(flops, flops)


def _plugin_cost(
    formula: routing.Formula, name: str, args: tuple, kwargs: dict, output: Any
) -> Cost:
    """The cost by a plugin's formula. Raises TypeError or ValueError unless it is an int >= 0."""
    returned = formula(args, kwargs, output)
    try:
        flops = operator.index(returned)  # NumPy integers are accepted, floats are not
    except TypeError as error:
        raise TypeError(f"the formula of {name} returned {returned!r}, not an int") from error
    if flops < 0:
        raise ValueError(f"the formula of {name} returned {flops}: work cannot be negative")
    return Cost(flops, flops)


def _is_sparse(value: Any) -> bool:
    return isinstance(value, Tensor) and is_sparse(value)


def _bytes_touched(rule: Rule, args: tuple, kwargs: dict, output: Any) -> int:
    """Bytes of operands read and results written, each once, regardless of caches."""
    if rule.kind == "no_work":
        return 0
    read = output if rule.gathers else args[:1]
    return _bytes(read) + _bytes(args[1:]) + _bytes(tuple(kwargs.values())) + _bytes(output)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return num_stored(value) * value.element_size()
    num_bytes = 0
    if isinstance(value, (tuple, list)):
        for part in value:  # a plain loop: this runs for every op
            num_bytes += _bytes(part)
    return num_bytes


def _elements(value: Any) -> int:
    if isinstance(value, Tensor):
        return num_stored(value)
    return sum(map(_elements, value)) if isinstance(value, (tuple, list)) else 0
