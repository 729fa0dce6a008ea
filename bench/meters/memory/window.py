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
from dataclasses import dataclass, replace

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from bench.meters.flops.threads import watch_other_threads
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched
from bench.meters.memory.resets import watch_resets
from bench.meters.time.clocks import is_exclusive

Work = Callable[[], object]
MARK = "condbench memory window"  # the range in the profile whose start is the window's
EMPTY = "the window allocated nothing, so it measured nothing"


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
    profiler or dispatch mode, on a device without such a meter, where `work` itself profiles or
    resets the meter, and when nothing was allocated.
    """
    window = observe_window(work, device, prepare)
    if window.reason == EMPTY:
        raise MeterStateError(f"memory: {EMPTY}")
    return window


def observe_window(work: Work, device: torch.device | str, prepare: Work) -> Window:
    """As `measure_window`, but a window in which nothing was allocated has that as its reason."""
    refuse_if_dispatch_watched("memory")
    device = torch.device(device)
    if device.type not in METERS:
        raise MeterStateError(f"memory: no meter for a device of type {device.type}")
    gc.collect()  # tensors in reference cycles would be freed, and counted as freed, inside
    window = METERS[device.type](work, prepare, device)
    # Work in another thread may allocate nothing in this one: that is a lower bound, no error.
    is_empty = window.peak_bytes == 0 and window.reason is None
    return replace(window, reason=EMPTY) if is_empty else window


def _on_cpu(work: Work, prepare: Work, device: torch.device) -> Window:
    """The running sum of the allocator's events, in time order, at its highest."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler logs to stderr otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepare()
        with watch_other_threads() as others, record_function(MARK):
            work()
    # The raw events: `profiler.events()` would first build a tree of all of them.
    results = profiler.profiler.kineto_results if profiler.profiler else None
    events = results.events() if results else []
    marks = [event.start_ns() for event in events if event.name() == MARK]
    if not marks:
        # There is one profiler in a process: a second one takes the first one's place.
        raise MeterStateError("memory: the work ran a profiler of its own, which ended this one")
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    live = peak = 0
    in_window = (change for change in changes if change[0] >= marks[0])
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
    with watch_resets() as resets:
        work()
    if resets:
        raise MeterStateError(f"memory: the work reset the high-water mark ({resets[0]})")
    torch.cuda.synchronize(device)
    free_after, _ = torch.cuda.mem_get_info(device)
    # The driver reports the device as a whole, other processes included.
    used = free_before - free_after if is_exclusive(device) else None
    if used is not None and used < 0:
        used = None  # something else gave memory back meanwhile
    grown = torch.cuda.memory_reserved(device) - reserved
    return Window(
        peak_bytes=torch.cuda.max_memory_allocated(device) - allocated,
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        device_used_bytes=used,
        non_torch_bytes=None if used is None else used - grown,
    )


METERS = {"cpu": _on_cpu, "cuda": _on_gpu}  # by type of device
