"""How each op is recorded: by a formula, as its parts, by elements, as free, or flagged.

    own formula -> composite: look inside -> elementwise -> declared free -> without a formula

Rules follow from torch's own registration of the op. An op that other code registered, or whose
kernel was replaced, has no rule but `without_formula`: its name and tags are the author's choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from bench.meters.flops.formulas import free_ops
from bench.meters.flops.formulas.table import FORMULAS
from bench.meters.flops.origin import is_own, num_registrations


class Rule(NamedTuple):
    """How one overload is recorded."""

    kind: str  # formula, composite, elementwise, free, no_work or without_formula
    name: str  # aten::mm
    argument_names: tuple[str, ...] = ()
    gathers: bool = False  # reads only those elements of its first argument that it returns
    counts_elements: bool = False  # computes what it writes, element by element
    allocates: bool = False  # returns memory that nothing has been written to
    writes: frozenset[str] = frozenset()  # arguments that it writes to
    reads: bool = True  # elements of its arguments, not their shapes alone
    reads_what_it_writes: bool = False  # in place, as add_; unlike copy_

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by their names in the schema."""
        # Not strict: the dispatcher leaves trailing arguments out where they have their defaults.
        return dict(zip(self.argument_names, args, strict=False)) | kwargs

    def read_in(self, arguments: dict[str, Any]) -> list[Any]:
        """The arguments whose elements a call reads."""
        return [value for name, value in arguments.items() if self._is_read(name, arguments)]

    def written_in(self, arguments: dict[str, Any]) -> list[Any]:
        """The arguments that a call writes to."""
        return [arguments[name] for name in self.writes & arguments.keys()]

    def _is_read(self, name: str, arguments: dict[str, Any]) -> bool:
        if name in self.writes:
            return self.reads and self.reads_what_it_writes and not name.startswith("out")
        # What is added to a product is ignored where its factor is 0, and often not initialised.
        return self.reads and not (name in ("self", "input") and arguments.get("beta", 1) == 0)


class Rules:
    """The rule of every overload met so far, found anew when ops or kernels were registered."""

    def __init__(self) -> None:
        self._found: dict[OpOverload, Rule] = {}
        self._registrations = 0

    def refresh(self) -> None:
        """Forget what an op or kernel that was registered since may have changed."""
        if self._registrations != num_registrations():
            self._found.clear()
            self._registrations = num_registrations()

    def of(self, func: OpOverload) -> Rule:
        """The rule of `func`; finding one walks all overloads of its op, once."""
        rule = self._found.get(func)
        return rule if rule is not None else self._found.setdefault(func, rule_of(func))


def rule_of(func: OpOverload) -> Rule:
    """The rule of one overload; a composite op with a formula of its own is still taken apart."""
    key = "CompositeImplicitAutograd"
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    leaf = leaf_rule(func)
    return leaf._replace(kind="composite") if is_composite else leaf


def leaf_rule(func: OpOverload) -> Rule:
    """The rule of one overload that is not taken apart."""
    name = func._schema.name
    if not is_own(func):
        return Rule("without_formula", name, _argument_names(func), writes=_written(func))
    namespace, _, short = name.partition("::")
    short = short.removeprefix("_foreach_")  # over lists of tensors: the op applied to each
    forms = free_ops.stems(short) if namespace == "aten" else frozenset()
    plain = name.removesuffix("_")  # the in-place form of an op shares its formula
    formula = name if name in FORMULAS else plain
    kind = "formula" if formula in FORMULAS else _kind_without_formula(func, short, forms)
    return Rule(
        kind,
        formula if kind == "formula" else name,
        _argument_names(func),
        gathers=bool(forms & free_ops.GATHERS),
        counts_elements=kind == "elementwise" or bool(kind == "free" and forms & free_ops.WRITTEN),
        allocates=bool(forms & free_ops.ALLOCATES),
        writes=frozenset() if kind == "no_work" else _written(func),
        reads=kind != "no_work" and not short.startswith("new_") and not short.endswith("_like"),
        reads_what_it_writes=kind in ("formula", "elementwise"),
    )


def _kind_without_formula(func: OpOverload, short: str, forms: frozenset[str]) -> str:
    if _is_elementwise(func, short, forms):
        return "elementwise"
    if torch.Tag.view_copy in func.tags:  # copies what its view form only describes
        return "free"
    moves_nothing = (func.namespace == "aten" and func.is_view) or forms & free_ops.NO_WORK
    if moves_nothing or func.namespace in free_ops.SILENT_NAMESPACES:
        return "no_work"
    return "free" if forms & free_ops.FREE else "without_formula"


def _is_elementwise(func: OpOverload, short: str, forms: frozenset[str]) -> bool:
    """Whether torch tags the op or another form of it as pointwise, or `free_ops` lists it."""
    if forms & free_ops.ELEMENTWISE:
        return True
    # Often only one overload is tagged, and the in-place and out forms are not.
    packets = [func._overloadpacket]
    functional = getattr(getattr(torch.ops, func.namespace), short.rstrip("_"), None)
    packets += [functional] if functional is not None else []
    overloads = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    return any(torch.Tag.pointwise in overload.tags for overload in [func, *overloads])


def _argument_names(func: OpOverload) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


def _written(func: OpOverload) -> frozenset[str]:
    return frozenset(
        argument.name
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    )
