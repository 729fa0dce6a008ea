"""Memory: the peak of live tensors, exact to the byte, and what it consists of.

On a CPU the peak is the running sum of the allocator's own events over one pass, which includes
workspaces inside operators and repeats to the byte; it counts pages that are never touched and
misses memory that does not come from torch's allocator (see `rss` for what the process costs). On a
GPU it is the caching allocator's own high-water mark (block rounding of 512 bytes included).

Every window starts after a dry run (the caller's, where the work must run exactly once): first
runs allocate what later ones keep. Nothing here is ever timed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from bench.meters.conditions import evaluation_mode
from bench.meters.flops.threads import noticing
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched
from bench.meters.memory.storages import storage_bytes
from bench.meters.time.clocks import is_exclusive
from bench.meters.time.stopwatch import device_of

Work = Callable[[], object]
MARK = "condbench memory window"


@dataclass(frozen=True)
class Window:
    """What one piece of work allocated, in bytes. The last three exist on a GPU only."""

    peak_bytes: int  # live tensors above what was live at the start
    reason: str | None = None  # why the peak is only a lower bound
    reserved_bytes: int | None = None  # the caching allocator's segments, at their peak
    device_used_bytes: int | None = None  # growth of the whole device's use; None unless exclusive
    non_torch_bytes: int | None = None  # device_used - growth of reserved: context, libraries


@dataclass(frozen=True)
class InferenceMemory:
    """Peak of one inference pass: the model's own tensors and what the pass adds."""

    peak_tensor_bytes: int  # resident + window.peak_bytes
    resident_bytes: int  # parameters and buffers, each storage once
    window: Window


@dataclass(frozen=True)
class TrainingMemory:
    """Peak of one training step and its parts, which sum to it exactly.

    `activation_bytes` is the rest: what the peak holds beside the four lists of storages, that is
    saved activations and temporaries. Gradients count in full although some are not yet there at
    the peak; the rest is then smaller by as much.
    """

    peak_tensor_bytes: int
    params_bytes: int
    buffers_bytes: int
    grads_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    window: Window


def measure_peak_bytes(work: Work, device: torch.device | str = "cpu") -> int:
    """Bytes that `work` allocates at its peak above what is live before; runs it twice.

    Raises MeterStateError under a profiler or dispatch mode, when `work` allocates nothing, and
    when other threads worked for it, whose memory was not seen.
    """
    work()
    window = watch(work, device)
    if window.reason:
        raise MeterStateError(window.reason)
    return window.peak_bytes


def measure_inference_memory(model: nn.Module, batch: Any) -> InferenceMemory:
    """Peak tensor memory of `model(batch)` in evaluation and inference mode; runs it twice."""
    resident = storage_bytes([*model.parameters(), *model.buffers()])
    with evaluation_mode(model):
        model(batch)
        window = watch(lambda: model(batch), device_of(batch))
    return InferenceMemory(resident + window.peak_bytes, resident, window)


def measure_training_memory(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: Work
) -> TrainingMemory:
    """Peak tensor memory of one training step; runs `step` exactly once.

    Call it from the second step on, so that gradients and optimiser states exist.
    """
    params = list(model.parameters())
    device = params[0].device if params else torch.device("cpu")

    def parts() -> dict[str, int]:
        return {
            "params": storage_bytes(params),
            "buffers": storage_bytes(model.buffers()),
            "grads": storage_bytes(p.grad for p in params if p.grad is not None),
            "optimizer": storage_bytes(_states(optimizer)),
        }

    resident = sum(parts().values())
    old = [p.grad for p in params]  # kept alive: frees of blocks the profiler does not know warn
    window = watch(step, device, prepare=lambda: _rehome_grads(params))
    del old
    after = parts()
    peak = resident + window.peak_bytes
    return TrainingMemory(
        peak_tensor_bytes=peak,
        params_bytes=after["params"],
        buffers_bytes=after["buffers"],
        grads_bytes=after["grads"],
        optimizer_bytes=after["optimizer"],
        activation_bytes=peak - sum(after.values()),
        window=window,
    )


def watch(work: Work, device: torch.device | str = "cpu", prepare: Work = lambda: None) -> Window:
    """What `work` allocates on `device`; runs it exactly once, without a dry run.

    `prepare` runs first and is not counted. A CPU block that `work` frees counts only if it was
    allocated in `prepare`: the profiler knows no older blocks. What other threads allocate on a
    CPU is not seen: the window's `reason` names them. Raises MeterStateError under a profiler or
    dispatch mode, and when nothing was allocated.
    """
    refuse_if_dispatch_watched("memory")
    device = torch.device(device)
    gc.collect()
    window = _on_gpu(work, prepare, device) if device.type == "cuda" else _on_cpu(work, prepare)
    if window.peak_bytes == 0 and window.reason is None:
        raise MeterStateError("memory: the window allocated nothing, so it measured nothing")
    return window


def find_largest_batch(run: Callable[[int], object], *, limit: int = 65536) -> int:
    """The largest batch size up to `limit` that fits in the device's memory; 0 if not even one.

    `run(n)` must run a batch of n samples and raise torch.OutOfMemoryError where it does not fit.
    Doubles until it fails, then halves the gap.
    """
    fits, fails = 0, limit + 1
    size = 1
    while fits + 1 < fails:
        if _fits(run, size):
            fits = size
        else:
            fails = size
        size = min(2 * fits, limit) if fails > limit else (fits + fails) // 2
    return fits


def _fits(run: Callable[[int], object], size: int) -> bool:
    try:
        run(size)
    except torch.OutOfMemoryError:
        pass  # collect outside the handler: the traceback holds the failed pass's tensors
    else:
        return True
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _rehome_grads(params: list[nn.Parameter]) -> None:
    """Copy the gradients into new CPU blocks, so that freeing them in the window is seen."""
    for parameter in params:
        grad = parameter.grad
        if grad is not None and grad.device.type == "cpu" and grad.layout == torch.strided:
            parameter.grad = grad.clone()


def _states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Tensors among the optimiser's states."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return [value for value in values if isinstance(value, Tensor)]


def _on_cpu(work: Work, prepare: Work) -> Window:
    """The running sum of the allocator's events, in time order, at its highest."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler chatters on stderr otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepare()
        with noticing() as others, record_function(MARK):
            work()
    events = profiler.profiler.kineto_results.events()
    start_ns = next(event.start_ns() for event in events if event.name() == MARK)
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
    ]
    live = peak = 0
    in_window = (change for change in changes if change[0] >= start_ns)
    for _, num_bytes in sorted(in_window, key=lambda change: change[0]):
        live += num_bytes
        peak = max(peak, live)
    names = ", ".join(dict.fromkeys(others))
    reason = f"memory of work in other threads ({names}) was not seen" if others else None
    return Window(peak, reason)


def _on_gpu(work: Work, prepare: Work, device: torch.device) -> Window:
    """The caching allocator's high-water marks, and the growth of the whole device's use."""
    prepare()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    allocated = torch.cuda.memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    free_before, _ = torch.cuda.mem_get_info(device)
    work()
    torch.cuda.synchronize(device)
    free_after, _ = torch.cuda.mem_get_info(device)
    used = free_before - free_after if is_exclusive(device) else None
    grown = torch.cuda.memory_reserved(device) - reserved
    return Window(
        peak_bytes=torch.cuda.max_memory_allocated(device) - allocated,
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        device_used_bytes=used,
        non_torch_bytes=None if used is None else used - grown,
    )
