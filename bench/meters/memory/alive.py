"""What must be alive at the end of a pass or step: no peak can be below it.

A window sees the allocations of torch's allocator on one device, in this thread. Memory that a
model takes elsewhere is missing from its peak, and the tensors that it returns show that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.meters.guard import MeterStateError
from bench.meters.memory.storages import storage_bytes
from bench.meters.memory.window import Window


def tensors_in(value: Any) -> list[Tensor]:
    """Tensors in nested tuples, lists, dicts and objects with attributes, such as a batch."""
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif not isinstance(leaf, type) and hasattr(leaf, "__dict__"):
            found += [each for each in vars(leaf).values() if isinstance(each, Tensor)]
    return found


def check_output(
    window: Window, output: Any, earlier: Any, own: Iterable[Tensor], device: torch.device
) -> Window:
    """The window, in doubt where `output` lies in memory that neither it nor the model has.

    `earlier`: the output of the dry run, which is still held, so that no new tensor has its
    address. `own`: tensors of model and batch. Raises MeterStateError where the peak is below what
    the pass returned, unless the window has its reason for that already.
    """
    here = [each for each in tensors_in(output) if each.device.type == device.type]
    known, before = list(own), tensors_in(earlier)
    fresh = _added(here, [*known, *before])
    if fresh > window.peak_bytes and window.reason is None:
        raise MeterStateError(
            f"memory: a peak of {window.peak_bytes} bytes is below the {fresh} bytes of the "
            "output, which was allocated where the meter does not look"
        )
    kept = _added(here, known) - fresh
    if kept:
        reason = f"{kept} bytes of the output are kept between passes, outside the model's tensors"
        return in_doubt(window, reason)
    return window


def check_devices(window: Window, own: Iterable[Tensor], device: torch.device) -> Window:
    """The window, in doubt where a part of the model computes on another device."""
    others = sorted({str(each.device) for each in own if not _is_on(each, device)})
    if others:
        return in_doubt(window, f"memory of a model's part on {', '.join(others)} was not seen")
    return window


def check_step(window: Window, resident: int, after: int) -> Window:
    """The window of a training step, in doubt where it shows less than the step leaves alive."""
    missing = after - resident - window.peak_bytes
    if missing > 0:
        return in_doubt(window, f"the peak is {missing} bytes below what the step leaves alive")
    return window


def in_doubt(window: Window, reason: str) -> Window:
    """The window with a further reason why its peak is only a lower bound."""
    return replace(window, reason="; ".join(filter(None, (window.reason, reason))))


def _added(tensors: list[Tensor], known: list[Tensor]) -> int:
    """Bytes of `tensors` that share no storage with `known`."""
    return storage_bytes([*known, *tensors]) - storage_bytes(known)


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    # A meta tensor has no memory; an index is left out where only one device is meant.
    if tensor.device.type == "meta":
        return True
    same = tensor.device.type == device.type
    return same and (None in (tensor.device.index, device.index) or tensor.device == device)
