"""Stray GPU kernels: launched by no torch operation, so no dispatch mode can count them.

A bare Triton or CUDA launch bypasses the dispatcher. The profiler's device events list every
kernel, and its host events the operation that launched it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.meters.guard import refuse_if_dispatch_watched

_MOVES = ("Memcpy", "Memset")  # device events of the driver's own copies: no kernels


def count_stray_kernels(fn: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Number of runs of each kernel without a torch operation in one call; {} without a GPU.

    Raises MeterStateError under a dispatch mode or another profiler.
    """
    refuse_if_dispatch_watched("GPU kernels")
    if not torch.cuda.is_available():
        return {}
    both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=both, acc_events=True) as profiler:
        fn(*args)
        torch.cuda.synchronize()  # kernels still running at the end would have no event
    return stray_kernels(profiler.events())


def stray_kernels(events: Iterable[Any]) -> dict[str, int]:
    """Kernels among a profile's events that are attached to no operation (`library::name`)."""
    # By name and number, because a kernel's device event has no link back to its operation.
    run: Counter[str] = Counter()
    launched: Counter[str] = Counter()
    for event in events:
        if event.device_type == DeviceType.CUDA:
            is_kernel = not event.name.startswith(_MOVES) and not event.is_user_annotation
            run[event.name] += is_kernel
        elif "::" in event.name:
            launched.update(kernel.name for kernel in event.kernels)
    return dict(run - launched)
