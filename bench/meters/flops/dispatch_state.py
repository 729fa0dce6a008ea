"""Running an op inside a mode's handler in the dispatch state of its caller.

Inside a mode's handler torch switches autocast and view tracking off. Two kinds of ops would then
run differently than without a count, in another precision for example:

    composite ops in inference mode (linear, matmul, einsum, ...): elsewhere autograd takes them
        apart before a mode sees them; here they arrive whole, and their parts need both
    the fused encoder layer and bilinear, whose parts have autocast rules though they have none
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch._ops import OpOverload
from torch.overrides import enable_reentrant_dispatch

# Fused ops that have no autocast rule of their own, and the devices where that is so.
_WITHOUT_RULES = {
    "aten::_transformer_encoder_layer_fwd": ("cpu", "cuda"),
    "aten::_trilinear": ("cpu",),
}
_AUTOCAST = {"cpu": DispatchKey.AutocastCPU, "cuda": DispatchKey.AutocastCUDA}


@contextmanager
def caller_state(func: OpOverload) -> Iterator[None]:
    """Inside, dispatch as at the place where the composite op `func` was called."""
    # Re-entrant dispatch restores the keys that the handler lost, its own autocast rule included;
    # that rule has been applied already and must not run twice.
    passed = DispatchKeySet.from_raw_repr(_own_autocast_bits(func))
    with enable_reentrant_dispatch(), torch._C._ExcludeDispatchKeyGuard(passed):
        yield


def run_whole(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `func` undivided, below the mode, with autocast for its parts if the caller had it on."""
    devices = _WITHOUT_RULES.get(func.name())
    if devices is None:
        return func(*args, **kwargs)
    with enable_reentrant_dispatch():  # inside the handler autocast always reads as off
        running = [_AUTOCAST[device] for device in devices if torch.is_autocast_enabled(device)]
    excluded = torch._C._dispatch_tls_local_exclude_set().raw_repr() & ~_bits(*running)
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, DispatchKeySet.from_raw_repr(excluded)):
        return func(*args, **kwargs)


@cache
def _own_autocast_bits(func: OpOverload) -> int:
    """The autocast rules that `func` has itself: its casts are done, and its parts run without."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return _bits(*(key for key in _AUTOCAST.values() if has_kernel(func.name(), key.name)))


def _bits(*keys: DispatchKey) -> int:
    bits = 0  # key sets have no union operator in Python; their raw representation is a bit mask
    for key in keys:
        bits |= DispatchKeySet(key).raw_repr()
    return bits
