"""The FLOP ledger: a dispatch mode that books every executed op, or says that it does not know it.

    op arrives -> own formula -> composite: look inside -> elementwise -> declared to cost nothing
               -> plugin formula -> unknown

A plugin's formula is for what is unknown: one for an op that is known would hide work, and raises.

Ops run unchanged, on the real inputs, so data-dependent control flow is counted as it happened.
`torch.cond` runs the taken branch only and `while_loop` is interpreted; other higher-order
operators run and are flagged.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from bench import routing
from bench.meters.flops import control_flow, free_ops
from bench.meters.flops.call import Call, Cost
from bench.meters.flops.dispatch_state import as_called, run
from bench.meters.flops.formulas import FORMULAS
from bench.meters.flops.sparse import stored
from bench.meters.flops.tally import Tally


class _Rule(NamedTuple):
    """How one overload is booked."""

    kind: str  # formula, composite, elementwise, free_ops, no_work or unknown
    name: str  # aten::mm
    argument_names: tuple[str, ...] = ()
    gathers: bool = False  # reads of its first argument only what it returns


class Ledger(TorchDispatchMode):
    """Books what its thread dispatches into a tally."""

    supports_higher_order_operators = True
    _rules: dict[OpOverload, _Rule] = {}  # one torch, one set of rules

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

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
        rule = self._rules.get(func) or self._rules.setdefault(func, _rule(func))
        told = self._told(func) if self.tally.formulas else None
        if told is not None and rule.kind not in ("unknown", "formula"):
            raise ValueError(_ALREADY_KNOWN.format(rule.name))
        if rule.kind == "composite":
            if not any(isinstance(arg, Tensor) and arg.is_nested for arg in args):
                with as_called(func), self:
                    return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
            rule = _leaf_rule(func)  # nested tensors have kernels of their own
        if told is None and rule.kind == "unknown":
            self.tally.flag(rule.name)
        output = run(func, args, kwargs)
        self._book(rule, args, kwargs, output, told)
        return output

    def _told(self, func: OpOverload) -> routing.Formula | None:
        formulas = self.tally.formulas
        return formulas.get(func) or formulas.get(func._overloadpacket)

    def _book(
        self, rule: _Rule, args: tuple, kwargs: dict, output: Any, told: routing.Formula | None
    ) -> None:
        cost = _own_cost(rule, args, kwargs, output)
        if told is not None:
            if cost is not None:
                raise ValueError(_ALREADY_KNOWN.format(rule.name))
            cost = _told_cost(told, rule.name, args, kwargs, output)
            self.tally.book_told(rule.name, cost)
        elif cost is None and rule.kind == "formula":
            self.tally.flag(rule.name)
        written = output if output is not None else args[:1]
        elements = _elements(written) if rule.kind == "elementwise" else 0
        self.tally.book(rule.name, cost, elements, _bytes_touched(rule, args, kwargs, output))

    def _higher_order(self, func: HigherOrderOperator, args: tuple, kwargs: dict) -> Any:
        interpret = control_flow.INTERPRETERS.get(func.name())
        if interpret is not None:
            with self:
                return interpret(*args, **kwargs)
        self.tally.flag(f"higher_order::{func.name()}")
        return func(*args, **kwargs)


def _takes_over(kind: type) -> bool:
    """Whether a tensor class answers dispatched ops itself (nested jagged, quantised, fake)."""
    handler = getattr(kind, "__torch_dispatch__", None)
    return kind is not Tensor and handler is not torch._C._disabled_torch_dispatch_impl


_ALREADY_KNOWN = (
    "a plugin registered a FLOP formula for {}, which the meter counts itself: remove that call of "
    "bench.routing.register_formula"
)


def _own_cost(rule: _Rule, args: tuple, kwargs: dict, output: Any) -> Cost | None:
    """By our formula; None where there is none, or where it cannot tell."""
    if rule.kind != "formula":
        return None
    arguments = dict(zip(rule.argument_names, args, strict=False)) | kwargs
    answer = FORMULAS[rule.name](Call(rule.name, arguments, output))
    return answer if answer is None or isinstance(answer, Cost) else Cost(answer, answer)


def _told_cost(formula: routing.Formula, name: str, args: tuple, kwargs: dict, output: Any) -> Cost:
    """A plugin's answer; it must be a whole number of FLOPs, zero or more."""
    answer = formula(args, kwargs, output)
    try:
        flops = operator.index(answer)
    except TypeError as error:
        raise TypeError(f"the formula of {name} returned {answer!r}, not an int") from error
    if flops < 0:
        raise ValueError(f"the formula of {name} returned {flops}: work cannot be negative")
    return Cost(flops, flops)


def _rule(func: OpOverload) -> _Rule:
    leaf = _leaf_rule(func)
    key = "CompositeImplicitAutograd"
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    return leaf._replace(kind="composite") if composite else leaf


def _leaf_rule(func: OpOverload) -> _Rule:
    name = func._schema.name
    plain = name.removesuffix("_")
    namespace, _, short = name.partition("::")
    short = short.removeprefix("_foreach_")  # over lists of tensors: what it does to each
    forms = free_ops.stems(short) if namespace == "aten" else frozenset()
    gathers = bool(forms & free_ops.GATHERS)
    if name in FORMULAS or plain in FORMULAS:
        arguments = tuple(argument.name for argument in func._schema.arguments)
        return _Rule("formula", name if name in FORMULAS else plain, arguments, gathers)
    if _is_elementwise(func, short, forms):
        return _Rule("elementwise", name)
    if torch.Tag.view_copy in func.tags:
        return _Rule("uncounted", name)
    moves_nothing = (namespace == "aten" and func.is_view) or forms & free_ops.NO_WORK
    if moves_nothing or namespace in free_ops.SILENT_NAMESPACES:
        return _Rule("no_work", name)
    kind = "uncounted" if forms & free_ops.UNCOUNTED else "unknown"
    return _Rule(kind, name, gathers=gathers)


def _is_elementwise(func: OpOverload, short: str, forms: frozenset[str]) -> bool:
    """Tagged so by torch, it or the form of it that torch did tag, or declared so."""
    if forms & free_ops.ELEMENTWISE:
        return True
    packets = [func._overloadpacket]
    functional = getattr(getattr(torch.ops, func.namespace), short.rstrip("_"), None)
    packets += [functional] if functional is not None else []
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    return any(torch.Tag.pointwise in overload.tags for overload in [func, *overloads])


def _bytes_touched(rule: _Rule, args: tuple, kwargs: dict, output: Any) -> int:
    """Operands read and results written, each once, whatever the caches do."""
    if rule.kind == "no_work":
        return 0
    read = output if rule.gathers else args[:1]
    return _bytes(read) + _bytes(args[1:]) + _bytes(tuple(kwargs.values())) + _bytes(output)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return stored(value) * value.element_size()
    num_bytes = 0
    if isinstance(value, (tuple, list)):
        for part in value:  # a plain loop: this runs for every op
            num_bytes += _bytes(part)
    return num_bytes


def _elements(value: Any) -> int:
    if isinstance(value, Tensor):
        return stored(value)
    return sum(map(_elements, value)) if isinstance(value, (tuple, list)) else 0
