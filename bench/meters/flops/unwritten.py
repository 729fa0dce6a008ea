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
# honest caller fills all of an empty tensor so; which elements were left cannot be told from here.
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
        # Not strict: the dispatcher leaves trailing arguments out where they have their defaults.
        arguments = dict(zip(rule.argument_names, args, strict=False)) | kwargs
        read = [value for name, value in arguments.items() if _is_read(rule, name, arguments)]
        unwritten = any(self._holds(tensor) for tensor in _tensors(read))
        for name in rule.writes & arguments.keys():
            for tensor in _tensors(arguments[name]):
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
        for tensor in _tensors(output):
            self._allocated[_address(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def is_in(self, value: Any) -> bool:
        """Whether tensors of a result lie in memory that nothing was written to."""
        return bool(self._allocated) and any(self._holds(tensor) for tensor in _tensors(value))

    def _holds(self, tensor: Tensor) -> bool:
        reference = self._allocated.get(_address(tensor))
        return reference is not None and not reference.expired() and tensor.numel() > 0


def _is_read(rule: Rule, name: str, arguments: dict[str, Any]) -> bool:
    if name in rule.writes:
        return rule.reads_what_it_writes and not name.startswith("out")
    if name == "self" and rule.name in _FILLS:
        return False
    # What is added to a product is ignored where its factor is 0, and often not initialised.
    return not (name in ("self", "input") and arguments.get("beta", 1) == 0)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The dense tensors in a value; lists, tuples and mappings are searched."""
    if isinstance(value, Tensor):
        if value.layout is torch.strided and not value.is_nested:
            yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
