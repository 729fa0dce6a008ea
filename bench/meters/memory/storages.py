"""Where a tensor's numbers lie: the storages behind it, each once, whatever its layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_COLUMNS = (torch.sparse_csc, torch.sparse_bsc)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind `tensors`, each storage once, however many views share it.

    A sparse tensor keeps its values and its indices.
    """
    found: dict[int, int] = {}
    for part in (part for tensor in tensors for part in parts(tensor)):
        if part.layout is torch.strided:
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        else:  # opaque, as mkldnn's: nothing shares it
            found[id(part)] = part.numel() * part.element_size()
    found.pop(0, None)  # empty storages have no address
    return sum(found.values())


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that `tensor` consists of: itself, or values and indices, or what a
    wrapper class wraps."""
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
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
    """Whether the tensor has one storage of its own that its shape and strides describe."""
    return tensor.layout is torch.strided and not is_traceable_wrapper_subclass(tensor)
