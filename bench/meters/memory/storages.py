"""Storages behind tensors, each counted once, whatever the tensors' layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# Compressed layouts: two index tensors and the values, by the compressed dimension.
_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_COLUMNS = (torch.sparse_csc, torch.sparse_bsc)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind `tensors`, each storage once, however many views share it.

    A sparse tensor keeps its values and its indices.
    """
    found: dict[int, int] = {}  # address -> bytes
    for part in (part for tensor in tensors for part in parts(tensor)):
        if part.layout is torch.strided:
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        else:  # opaque, as mkldnn's: it has no address and shares its memory with no other tensor
            found[id(part)] = part.numel() * part.element_size()
    found.pop(0, None)  # empty storages have no address
    return sum(found.values())


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that `tensor` consists of: itself, values and indices, or wrapped ones."""
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:  # attribute names; wrappers may nest
            yield from parts(getattr(tensor, name))
    elif tensor.layout is torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in _ROWS:
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in _COLUMNS:
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        yield tensor


def is_plain(tensor: Tensor) -> bool:
    """Whether one storage, described by the tensor's shape and strides, holds all its elements."""
    return tensor.layout is torch.strided and not is_traceable_wrapper_subclass(tensor)
