"""GPU kernels that no torch operation launched: nothing that dispatches can count them.

A bare Triton or CUDA launch passes no dispatcher. The profiler's device events know every kernel,
and which operation each belongs to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.meters.guard import refuse_if_dispatch_watched

_MOVES = ("Memcpy", "Memset")  # of the driver: they compute nothing


def count_stray_kernels(fn: Callable[..., Any], *args: Any) -> dict[str, int]:
    """How often each kernel without a torch operation ran in one call; {} without a GPU.

    Raises MeterStateError under a dispatch mode or another profiler.
    """
    refuse_if_dispatch_watched("GPU kernels")
    if not torch.cuda.is_available():
        return {}
    both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=both, acc_events=True) as seen:
        fn(*args)
        torch.cuda.synchronize()
    return orphans(seen.events())


def orphans(events: Iterable[Any]) -> dict[str, int]:
    """Kernels among a profile's events that are attached to no operation (`library::name`)."""
    run: Counter[str] = Counter()
    launched: Counter[str] = Counter()
    for event in events:
        if event.device_type == DeviceType.CUDA:
            is_kernel = not event.name.startswith(_MOVES) and not event.is_user_annotation
            run[event.name] += is_kernel
        elif "::" in event.name:
            launched.update(kernel.name for kernel in event.kernels)
    return dict(run - launched)
