"""Which elements of a model's weights operators read: marks, one per element.

A view reads nothing; what reads the view is marked. Gathers and copied views mark what they return,
a grouped product the groups that received rows, and any other op all of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.meters.flops.control_flow import INTERPRETERS
from bench.meters.flops.dispatch_state import caller_state
from bench.meters.flops.formulas.sparse import num_stored
from bench.meters.flops.rules import Rules
from bench.meters.memory.storages import is_plain

aten = torch.ops.aten
_RULES = Rules()


class ReadMarker(TorchDispatchMode):
    """Marks the elements of a model's weights that operators read."""

    # Without this flag torch raises at the first `torch.cond` under the mode.
    supports_higher_order_operators = True

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = weights
        # By storage address, bool, one per element: views share the marks of their storage.
        self.marks: dict[int, Tensor] = {}
        for parameter in filter(is_plain, self.parameters):
            storage = parameter.untyped_storage()
            length = storage.nbytes() // parameter.element_size()
            self.marks[storage.data_ptr()] = torch.zeros(length, dtype=torch.bool)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs or {})
        if _RULES.of(func).kind == "composite" and not any(map(_is_nested, args)):
            # In inference mode it arrives whole; its parts show what is read of a weight.
            with caller_state(func), self:
                return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        if not func.is_view:  # a view reads nothing; what reads the view is marked instead
            _marker(func)(self.marks_of, args, kwargs or {})
        return output

    def _higher_order(self, func: HigherOrderOperator, args: Sequence[Any], kwargs: dict) -> Any:
        """Control flow runs as Python under the mode; other operators read all their arguments."""
        interpret = INTERPRETERS.get(func.name())
        if interpret is not None:
            with self:  # inside its handler a mode is off
                return interpret(*args, **kwargs)
        _mark_all(self.marks_of, args, kwargs)
        return func(*args, **kwargs)

    def marks_of(self, tensor: Any) -> Tensor | None:
        """The marks of `tensor`'s elements, in its shape; None if it is no part of a parameter."""
        if not isinstance(tensor, Tensor) or not is_plain(tensor):
            return None
        marks = self.marks.get(tensor.untyped_storage().data_ptr())
        if marks is None or tensor.numel() == 0:
            return None
        # An expanded dimension repeats one element: its mark is set once.
        strides = tensor.stride()
        size = [1 if stride == 0 else n for n, stride in zip(tensor.shape, strides, strict=True)]
        return marks.as_strided(size, strides, tensor.storage_offset())

    def num_read(self) -> int:
        """Number of parameter elements read; parameters that are not plain count whole."""
        views = ((p, self.marks_of(p)) for p in self.parameters)
        return sum(num_stored(p) if marks is None else int(marks.sum()) for p, marks in views)


# Tensor -> its marks, or None. Markers below take it with the op's arguments.
MarksOf = Callable[[Any], Tensor | None]


def _mark_all(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    for argument in tree_leaves((args, kwargs)):
        marks = marks_of(argument)
        if marks is not None:
            marks.fill_(True)


def _mark_copied_view(
    func: OpOverload, marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """An op like aten::slice_copy: it reads what its view form shows."""
    marks = marks_of(args[0])
    if marks is None or marks.shape != args[0].shape:
        _mark_all(marks_of, args, kwargs)
        return
    view = getattr(getattr(aten, func._schema.name[6:].removesuffix("_copy")), func._overloadname)
    for part in tree_leaves(view(marks, *args[1:], **kwargs)):
        part.fill_(True)


def _mark_taken(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """aten::take(source, index): the index counts elements in the order of rows."""
    source, index = args
    marks = marks_of(source)
    if marks is None or marks.shape != source.shape:
        _mark_all(marks_of, args, kwargs)
    elif marks.dim():
        marks[torch.unravel_index(index.cpu() % source.numel(), marks.shape)] = True
    else:
        marks.fill_(True)


def _mark_masked(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """aten::masked_select(source, mask): both are expanded to one shape."""
    source, mask = args
    marks = marks_of(source)
    # A source that is repeated along the mask has fewer marks than it has elements.
    if marks is None or marks.shape != torch.broadcast_shapes(source.shape, mask.shape):
        _mark_all(marks_of, args, kwargs)
        return
    marks.masked_fill_(mask.cpu(), True)


def _mark_rows(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """aten::index_select(source, dim, index)."""
    source, dim, index = args
    marks = marks_of(source)
    if marks is None:
        _mark_all(marks_of, args[1:], kwargs)
    else:
        marks.index_fill_(dim, index.cpu(), True)


def _mark_index(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """aten::index(source, indices): an index is None where its dimension is taken whole."""
    source, indices = args
    marks = marks_of(source)
    if marks is None:
        _mark_all(marks_of, args[1:], kwargs)
    else:
        marks[tuple(slice(None) if i is None else i.cpu() for i in indices)] = True


def _mark_gathered(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """aten::gather(source, dim, index): `index` may be smaller than `source` in every dimension."""
    source, dim, index = args[:3]
    marks = marks_of(source)
    # Marks of an expanded source have another shape: all are marked then, which is an upper bound.
    if marks is None or marks.shape != source.shape:
        _mark_all(marks_of, args, kwargs)
    else:
        marks.scatter_(dim, index.cpu(), True)


def _mark_groups(marks_of: MarksOf, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """aten::_grouped_mm(rows, weights [E, K, N], offs [E]): only groups with rows are read."""
    rows, weights, *rest = args
    offs = rest[0] if rest else kwargs.get("offs")
    _mark_all(marks_of, [rows, *rest[1:]], kwargs)
    marks = marks_of(weights)
    if marks is None:
        return
    # Without offsets every group has rows; a weight of two dimensions is no stack of experts.
    if offs is None or weights.dim() != 3:
        marks.fill_(True)
        return
    ends = offs.cpu()
    counts = torch.diff(ends, prepend=ends.new_zeros(1))  # [E]
    marks[counts > 0] = True


Marker = Callable[[MarksOf, Sequence[Any], dict[str, Any]], None]
_MARKERS: dict[Any, Marker] = {
    aten.index_select: _mark_rows,
    aten.index: _mark_index,
    aten._unsafe_index: _mark_index,
    aten.gather: _mark_gathered,
    aten.take: _mark_taken,
    aten.masked_select: _mark_masked,
    aten._grouped_mm: _mark_groups,
}


def _marker(func: OpOverload) -> Marker:
    if torch.Tag.view_copy in func.tags:
        return partial(_mark_copied_view, func)
    return _MARKERS.get(func.overloadpacket, _mark_all)


def _is_nested(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_nested
