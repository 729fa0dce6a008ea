"""Composite ops under a dispatch mode in inference mode: run them in the state they were called in.

Outside inference mode, autograd takes composite ops (linear, matmul, einsum, ...) apart before a
mode sees them. In inference mode they arrive whole, in a handler for which torch has switched off
autocast and view tracking. Taken apart in that state they lose autocast's casts and fold matrices
differently: a model would run in another precision while it is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch._ops import OpOverload
from torch.overrides import enable_reentrant_dispatch

_AUTOCAST = (DispatchKey.AutocastCPU, DispatchKey.AutocastCUDA)


@contextmanager
def as_called(func: OpOverload) -> Iterator[None]:
    """Inside, dispatch as where `func` was called, not as in the mode's handler."""
    with enable_reentrant_dispatch(), torch._C._ExcludeDispatchKeyGuard(_autocast_passed(func)):
        yield


@cache
def _autocast_passed(func: OpOverload) -> DispatchKeySet:
    """An op with an autocast kernel of its own came through it: its casts are done, and its parts
    run with autocast off."""
    keys = DispatchKeySet.from_raw_repr(0)
    for key in _AUTOCAST:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key.name):
            keys = keys.add(key)
    return keys
