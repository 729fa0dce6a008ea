"""Memory that no dispatched op wrote: what is read from it was computed where no mode looks.

A kernel that torch calls past its dispatcher (a packed product of fbgemm, a graph that oneDNN
fused, a launch of a plugin's own) allocates its result as every op does, and fills it unseen. So
memory that is read, or returned, while every op only allocated it gives such a kernel away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from bench.meters.flops.rules import Rule

# They return their first argument with some elements replaced, as their in-place forms fill it. An
# honest caller fills all of an empty tensor so; the elements that were left do not show here.
_FILLS = frozenset(
    f"aten::{name}"
    for name in (
        *("scatter", "index_copy", "index_put", "index_fill", "masked_scatter", "masked_fill"),
        *("slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter"),
    )
)
_MANY = 64  # storages; above, those that are gone are dropped from the list


class Unwritten:
    """The memory that ops of one count allocated, as long as nothing was written to it."""

    def __init__(self) -> None:
        # By address of the storage object. The weak reference keeps the address from being used
        # again, but not the memory behind it.
        self._allocated: dict[int, StorageWeakRef] = {}

    def is_read_by(self, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the op is going to read memory that nothing was written to.

        Call it before the op runs; what the op writes is written afterwards.
        """
        if not self._allocated or not rule.reads:
            return False
        arguments = rule.arguments(args, kwargs)
        read = rule.read_in(arguments)
        if rule.name in _FILLS:
            read = read[1:]  # the first is `self`
        unwritten = any(self._holds(tensor) for tensor in dense_tensors(read))
        for tensor in dense_tensors(rule.written_in(arguments)):
            self._allocated.pop(_address(tensor), None)
        return unwritten

    def note_allocated(self, rule: Rule, output: Any) -> None:
        """Add what an allocating op returned."""
        if not rule.allocates:
            return
        if len(self._allocated) > _MANY:
            gone = [key for key, reference in self._allocated.items() if reference.expired()]
            for key in gone:
                del self._allocated[key]
        for tensor in dense_tensors(output):
            self._allocated[_address(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def is_in(self, value: Any) -> bool:
        """Whether tensors of a result lie in memory that nothing was written to."""
        return bool(self._allocated) and any(self._holds(tensor) for tensor in dense_tensors(value))

    def _holds(self, tensor: Tensor) -> bool:
        reference = self._allocated.get(_address(tensor))
        return reference is not None and not reference.expired() and tensor.numel() > 0


def dense_tensors(value: Any) -> Iterator[Tensor]:
    """The dense tensors in a value; lists, tuples, mappings and batches are searched."""
    if isinstance(value, Tensor):
        if value.layout is torch.strided and not value.is_nested:
            yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from dense_tensors(part)
    elif isinstance(value, dict):
        yield from dense_tensors(list(value.values()))
    elif hasattr(value, "__dataclass_fields__"):
        yield from dense_tensors(list(vars(value).values()))


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
