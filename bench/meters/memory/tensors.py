"""Memory of a model: the peak of live tensors, exact to the byte, and its parts.

Every window starts after a dry run (the caller's, where the work must run exactly once): first
runs allocate what later ones keep. Nothing here is ever timed. What a peak includes: see `window`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.meters.conditions import evaluation_mode
from bench.meters.guard import MeterStateError
from bench.meters.memory.alive import check_devices, check_output, check_step, tensors_in
from bench.meters.memory.attributes import find_kept_tensors, unpack_tensors
from bench.meters.memory.storages import storage_bytes
from bench.meters.memory.window import Window, Work, measure_window, observe_window
from bench.meters.time.stopwatch import device_of


@dataclass(frozen=True)
class InferenceMemory:
    """Peak of one inference pass: the model's own tensors and what the pass adds, in bytes."""

    peak_tensor_bytes: int  # resident + window.peak_bytes
    resident_bytes: int  # parameters, buffers and tensors in plain attributes, each storage once
    window: Window


@dataclass(frozen=True)
class TrainingMemory:
    """Peak of one training step and its parts, which sum to it exactly, in bytes.

    `activation_bytes` is the rest: what the peak holds beside the four lists of storages, that is
    saved activations and temporaries. Gradients count in full although some do not exist yet at
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
    """Bytes that `work` allocates at its peak above those live before; runs it twice.

    Raises MeterStateError under a profiler or dispatch mode, when `work` allocates nothing, and
    when other threads worked for it, whose memory was not seen.
    """
    work()
    window = measure_window(work, device)
    if window.reason:
        raise MeterStateError(window.reason)
    return window.peak_bytes


def measure_inference_memory(model: nn.Module, batch: Any) -> InferenceMemory:
    """Peak tensor memory of `model(batch)` in evaluation and inference mode; runs it twice.

    Raises MeterStateError as `measure_window` does, and where the peak is below what the pass
    returns.
    """
    outputs: list[Any] = []  # held: the second one must be in memory of its own

    def run() -> None:
        outputs.append(model(batch))

    device = device_of(batch)
    with evaluation_mode(model):
        # The dry run separates what the model keeps in plain attributes from last activations.
        kept = find_kept_tensors(model, run)
        own = [*model.parameters(), *model.buffers(), *kept]
        resident = storage_bytes([*own, *unpack_tensors(model)])
        window = measure_window(run, device)
        window = check_output(window, outputs[1], outputs[0], [*own, *tensors_in(batch)], device)
    return InferenceMemory(
        resident + window.peak_bytes, resident, check_devices(window, own, device)
    )


def measure_training_memory(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: Work
) -> TrainingMemory:
    """Peak tensor memory of one training step; runs `step` exactly once.

    Call it from the second step on, so that gradients and optimiser states exist. A step that
    allocated nothing gives a window with its reason, because it must not end the training.
    """
    params = list(model.parameters())
    device = params[0].device if params else torch.device("cpu")
    resident = sum(_part_bytes(model, optimizer).values())
    # Kept alive until the end: freeing a block that is older than the profile logs a warning.
    old = [p.grad for p in params]
    window = observe_window(step, device, prepare=lambda: _reallocate_grads(params))
    del old
    # Parts are those after the step: one that sets gradients to None ends without them.
    after = _part_bytes(model, optimizer)
    window = check_step(window, resident, sum(after.values()))
    peak = resident + window.peak_bytes
    return TrainingMemory(
        peak_tensor_bytes=peak,
        params_bytes=after["params"],
        buffers_bytes=after["buffers"],
        grads_bytes=after["grads"],
        optimizer_bytes=after["optimizer"],
        activation_bytes=peak - sum(after.values()),
        window=check_devices(window, [*params, *model.buffers()], device),
    )


def _part_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes that model and optimiser hold now, each storage once within its part."""
    params = list(model.parameters())
    return {
        "params": storage_bytes(params),
        "buffers": storage_bytes(model.buffers()),
        "grads": storage_bytes(p.grad for p in params if p.grad is not None),
        "optimizer": storage_bytes(_states(optimizer)),
    }


def _states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Tensors among the optimiser's states."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return [value for value in values if isinstance(value, Tensor)]  # others: step counts


def _reallocate_grads(params: list[nn.Parameter]) -> None:
    """Copy the gradients into new CPU blocks, so that the profile records their being freed."""
    for parameter in params:
        grad = parameter.grad
        if grad is not None and grad.device.type == "cpu" and grad.layout == torch.strided:
            parameter.grad = grad.clone()


def find_largest_batch(run: Callable[[int], object], *, limit: int = 65536) -> int:
    """The largest batch size up to `limit` that fits in the device's memory; 0 if none does.

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
        torch.cuda.empty_cache()  # fragments of the failed pass would make smaller sizes fail
    return False
