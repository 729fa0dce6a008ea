"""Resets of the GPU allocator's high-water mark while a window is open: its peak is lost then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Where torch's own functions end, and those functions, of which a caller may hold a reference.
RESETS: tuple[tuple[Any, str], ...] = (
    (torch._C, "_cuda_resetPeakMemoryStats"),
    (torch._C, "_accelerator_resetPeakStats"),
    (torch.cuda, "reset_peak_memory_stats"),
    (torch.cuda.memory, "reset_peak_memory_stats"),
)


@contextmanager
def watch_resets() -> Iterator[list[str]]:
    """The names of the functions that reset a high-water mark in the block, as they are called."""
    called: list[str] = []
    # A build for CPUs has none of the functions in C.
    found = [(module, name, getattr(module, name, None)) for module, name in RESETS]
    present = [(module, name, reset) for module, name, reset in found if reset is not None]
    for module, name, reset in present:
        setattr(module, name, _noting(called, name, reset))
    try:
        yield called
    finally:
        for module, name, reset in present:
            setattr(module, name, reset)


def _noting(called: list[str], name: str, reset: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*arguments: Any, **keywords: Any) -> Any:
        called.append(name)
        return reset(*arguments, **keywords)

    return noting
