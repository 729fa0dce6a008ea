"""Parameters: how many a model keeps, and how many one sample really reads.

Active parameters are observed, not declared: every operator's parameter arguments are marked
element by element, through views (a slice of neurons, one expert of a stack) and gathers. A grouped
matrix product marks the groups that got rows. Embedding tables count whole, as the literature
counts them; sparse and wrapped parameters count what they store, read or not.
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
from bench.meters.flops.control_flow import INTERPRETERS, interpreted
from bench.meters.flops.sparse import stored
from bench.meters.flops.threads import noticing
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched
from bench.meters.memory.storages import is_plain

aten = torch.ops.aten


def count_resident_params(model: nn.Module) -> int:
    """Number of parameters that are kept, each once: the stored elements of sparse ones."""
    return sum(stored(parameter) for parameter in model.parameters())


def count_active_params(model: nn.Module, inputs: Iterable[Any]) -> list[int]:
    """Number of parameters that each of `inputs` (batches of one sample) reads in inference.

    Raises MeterStateError under another dispatch mode or a profiler, and where other threads
    worked, because what they read was not seen.
    """
    refuse_if_dispatch_watched("active parameters")
    counts = []
    with evaluation_mode(model), noticing() as others, interpreted(_is_watched_here):
        for each in inputs:
            with _Touched(model) as touched:
                model(each)
            counts.append(touched.num_params())
    if others:
        names = ", ".join(dict.fromkeys(others))
        raise MeterStateError(f"active parameters: what other threads read ({names}) was not seen")
    return counts


def _is_watched_here() -> bool:
    return any(isinstance(mode, _Touched) for mode in _get_current_dispatch_mode_stack())


class _Touched(TorchDispatchMode):
    """Marks the elements of the model's parameters that operators read."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parameters = list(model.parameters())
        self.marks: dict[int, Tensor] = {}  # by storage address: bool, one per element
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
        if not func.is_view:
            mark = _MARKERS.get(func.overloadpacket, _mark_all)
            mark(self.view, args, kwargs or {})
        return output

    def _higher_order(self, func: HigherOrderOperator, args: Sequence[Any], kwargs: dict) -> Any:
        """Control flow runs as Python, watched; other operators read all that they are given."""
        interpret = INTERPRETERS.get(func.name())
        if interpret is not None:
            with self:
                return interpret(*args, **kwargs)
        _mark_all(self.view, args, kwargs)
        return func(*args, **kwargs)

    def view(self, tensor: Any) -> Tensor | None:
        """The marks of `tensor`'s elements in its own shape; None if it is not of a parameter."""
        if not isinstance(tensor, Tensor) or not is_plain(tensor):
            return None
        marks = self.marks.get(tensor.untyped_storage().data_ptr())
        if marks is None or tensor.numel() == 0:
            return None
        # An expanded dimension repeats one element: its mark is set once.
        strides = tensor.stride()
        size = [1 if stride == 0 else n for n, stride in zip(tensor.shape, strides, strict=True)]
        return marks.as_strided(size, strides, tensor.storage_offset())

    def num_params(self) -> int:
        """How many elements of the parameters were read; other than plain ones count whole."""
        views = ((p, self.view(p)) for p in self.parameters)
        return sum(stored(p) if marks is None else int(marks.sum()) for p, marks in views)


View = Callable[[Any], Tensor | None]


def _mark_all(view: View, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    for argument in tree_leaves((args, kwargs)):
        marks = view(argument)
        if marks is not None:
            marks.fill_(True)


def _mark_rows(view: View, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """index_select(source, dim, index)."""
    source, dim, index = args
    marks = view(source)
    if marks is None:
        _mark_all(view, args[1:], kwargs)
    else:
        marks.index_fill_(dim, index.cpu(), True)


def _mark_index(view: View, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """source[indices], None where a dimension is taken whole."""
    source, indices = args
    marks = view(source)
    if marks is None:
        _mark_all(view, args[1:], kwargs)
    else:
        marks[tuple(slice(None) if i is None else i.cpu() for i in indices)] = True


def _mark_gathered(view: View, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """gather(source, dim, index): index may be shorter than the source elsewhere, not longer."""
    source, dim, index = args[:3]
    marks = view(source)
    if marks is None or marks.shape != source.shape:
        _mark_all(view, args, kwargs)
    else:
        marks.scatter_(dim, index.cpu(), True)


def _mark_groups(view: View, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """_grouped_mm(rows, weights [E, K, N], offs [E]): only groups with rows are read."""
    rows, weights, *rest = args
    offs = rest[0] if rest else kwargs.get("offs")
    _mark_all(view, [rows, *rest[1:]], kwargs)
    marks = view(weights)
    if marks is None:
        return
    if offs is None or weights.dim() != 3:
        marks.fill_(True)
        return
    ends = offs.cpu()
    counts = torch.diff(ends, prepend=ends.new_zeros(1))  # [E]
    marks[counts > 0] = True


_MARKERS: dict[Any, Callable[[View, Sequence[Any], dict[str, Any]], None]] = {
    aten.index_select: _mark_rows,
    aten.index: _mark_index,
    aten.gather: _mark_gathered,
    aten._grouped_mm: _mark_groups,
}
