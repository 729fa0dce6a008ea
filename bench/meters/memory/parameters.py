"""Parameters: the number that a model stores, and the number that one sample really reads.

Active parameters are observed, not declared: every operator's parameter arguments are marked
element by element, through views (a slice of neurons, one expert of a stack) and gathers. A grouped
matrix product marks the groups that received rows. Embedding tables count whole, as in the
literature; sparse and wrapped parameters count their stored elements, read or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from bench.meters.conditions import evaluation_mode
from bench.meters.flops.control_flow import INTERPRETERS, interpret_control_flow
from bench.meters.flops.sparse import num_stored
from bench.meters.flops.threads import watch_other_threads
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched
from bench.meters.memory.storages import is_plain

aten = torch.ops.aten


def count_resident_params(model: nn.Module) -> int:
    """Number of parameters, each once; of sparse ones, the stored elements."""
    return sum(num_stored(parameter) for parameter in model.parameters())


def count_active_params(model: nn.Module, inputs: Iterable[Any]) -> list[int]:
    """Number of parameters that each of `inputs` (batches of one sample) reads in inference.

    Raises MeterStateError under another dispatch mode or a profiler, and where other threads
    worked, because their reads were not seen.
    """
    refuse_if_dispatch_watched("active parameters")
    counts = []
    with (
        evaluation_mode(model),
        watch_other_threads() as others,
        interpret_control_flow(_is_watched_here),
    ):
        for each in inputs:
            with _ReadMarker(model) as marker:  # new marks per sample
                model(each)
            counts.append(marker.num_read())
    if others:
        names = ", ".join(dict.fromkeys(others))
        raise MeterStateError(f"active parameters: reads in other threads ({names}) were not seen")
    return counts


def _is_watched_here() -> bool:
    return any(isinstance(mode, _ReadMarker) for mode in _get_current_dispatch_mode_stack())


class _ReadMarker(TorchDispatchMode):
    """Marks the elements of the model's parameters that operators read."""

    # Without this flag torch raises at the first `torch.cond` under the mode.
    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parameters = list(model.parameters())
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
        output = func(*args, **(kwargs or {}))
        if not func.is_view:  # a view reads nothing; what reads the view is marked instead
            mark = _MARKERS.get(func.overloadpacket, _mark_all)
            mark(self.marks_of, args, kwargs or {})
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


_MARKERS: dict[Any, Callable[[MarksOf, Sequence[Any], dict[str, Any]], None]] = {
    aten.index_select: _mark_rows,
    aten.index: _mark_index,
    aten.gather: _mark_gathered,
    aten._grouped_mm: _mark_groups,
}
