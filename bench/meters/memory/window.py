"""The memory window: what one piece of work allocates, on a CPU or a GPU.

On a CPU the peak is the running sum of the allocator's own events, which includes workspaces inside
operators and repeats to the byte; it counts pages that are never touched and misses memory that
does not come from torch's allocator (see `resident` for the memory of the whole process). On a GPU
it is the caching allocator's own high-water mark (block rounding of 512 bytes included).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from bench.meters.flops.threads import watch_other_threads
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched
from bench.meters.time.clocks import is_exclusive

Work = Callable[[], object]
MARK = "condbench memory window"  # the range in the profile whose start is the window's


@dataclass(frozen=True)
class Window:
    """Allocations of one piece of work, in bytes. The last three exist on a GPU only."""

    peak_bytes: int  # live tensors above those live at the start
    reason: str | None = None  # why the peak is only a lower bound
    reserved_bytes: int | None = None  # the caching allocator's segments, at their peak
    device_used_bytes: int | None = None  # growth of the whole device's use; None unless exclusive
    non_torch_bytes: int | None = None  # device_used - growth of reserved: context, libraries


def measure_window(
    work: Work, device: torch.device | str = "cpu", prepare: Work = lambda: None
) -> Window:
    """Allocations of `work` on `device`; runs it exactly once, without a dry run.

    `prepare` runs first and is not counted. A CPU block that `work` frees counts only if it was
    allocated in `prepare`: the profiler has no record of older blocks. Allocations by other threads
    on a CPU are not seen: the window's `reason` names the threads. Raises MeterStateError under a
    profiler or dispatch mode, and when nothing was allocated.
    """
    refuse_if_dispatch_watched("memory")
    device = torch.device(device)
    gc.collect()  # tensors in reference cycles would be freed, and counted as freed, inside
    window = _on_gpu(work, prepare, device) if device.type == "cuda" else _on_cpu(work, prepare)
    # Work in another thread may allocate nothing in this one: that is a lower bound, no error.
    if window.peak_bytes == 0 and window.reason is None:
        raise MeterStateError("memory: the window allocated nothing, so it measured nothing")
    return window


def _on_cpu(work: Work, prepare: Work) -> Window:
    """The running sum of the allocator's events, in time order, at its highest."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler logs to stderr otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepare()
        with watch_other_threads() as others, record_function(MARK):
            work()
    # The raw events: `profiler.events()` would first build a tree of all of them.
    events = profiler.profiler.kineto_results.events()
    start_ns = next(event.start_ns() for event in events if event.name() == MARK)
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    live = peak = 0
    in_window = (change for change in changes if change[0] >= start_ns)
    # By time only, stable: events of the same nanosecond keep their order.
    for _, num_bytes in sorted(in_window, key=lambda change: change[0]):
        live += num_bytes  # negative where a block is freed
        peak = max(peak, live)
    names = ", ".join(dict.fromkeys(others))
    reason = f"memory of work in other threads ({names}) was not seen" if others else None
    return Window(peak, reason)


def _on_gpu(work: Work, prepare: Work, device: torch.device) -> Window:
    """The caching allocator's high-water marks, and the growth of the whole device's use."""
    prepare()
    torch.cuda.synchronize(device)
    # Cached free blocks would serve the work without a new segment: reserved bytes must be its own.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    allocated = torch.cuda.memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    free_before, _ = torch.cuda.mem_get_info(device)
    work()
    torch.cuda.synchronize(device)
    free_after, _ = torch.cuda.mem_get_info(device)
    # The driver reports the device as a whole, other processes included.
    used = free_before - free_after if is_exclusive(device) else None
    grown = torch.cuda.memory_reserved(device) - reserved
    return Window(
        peak_bytes=torch.cuda.max_memory_allocated(device) - allocated,
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        device_used_bytes=used,
        non_torch_bytes=None if used is None else used - grown,
    )
