"""Parameters and the peak of live tensors at inference, per batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.guard import MeterStateError
from bench.meters.memory.parameters import count_active_params, count_resident_params
from bench.meters.memory.tensors import (
    InferenceMemory,
    find_largest_batch,
    measure_inference_memory,
)
from bench.records.record import Metric, missing
from bench.types import Batch

NUM_ACTIVE_INPUTS = 8  # for active parameters: every operator is watched, which is slow
NUM_BATCHES = 2  # per size, for the peak: routing differs between inputs


def measure_footprint(subject: Subject, inputs: Inputs) -> Metrics:
    """Parameters, kept and active, and peak memory at the default operating point.

    Runs before the dense baseline exists in this process.
    """
    metrics = {
        "model/params": Metric(value=count_resident_params(subject.model), unit="count"),
        "model/active_params_per_sample": _active(subject, inputs),
    }
    for size, batches in inputs.by_size.items():
        metrics |= _peak(subject, batches[:NUM_BATCHES], size)
    metrics["infer/largest_batch"] = _largest_batch(subject, inputs)
    return metrics


def _peak(subject: Subject, batches: Sequence[Batch], size: int) -> Metrics:
    """The highest peak of some batches, in doubt where one of them was not seen whole."""
    key = f"infer/peak_tensor_bytes_b{size}"
    try:
        seen = [measure_inference_memory(subject.model, batch) for batch in batches]
    except MeterStateError as error:  # of a window that allocated nothing, for example
        return {key: missing("bytes", str(error))}
    highest = max(seen, key=lambda each: each.peak_tensor_bytes)
    doubt = next((each.window.reason for each in seen if each.window.reason), None)
    peak = _bytes(highest.peak_tensor_bytes)
    if doubt is not None:
        peak = peak.model_copy(update={"valid": False, "reason": doubt})
    return {key: peak, **_device_memory(highest, size)}


def _active(subject: Subject, inputs: Inputs) -> Metric:
    """Parameters that one sample reads, the mean over the first inputs alone.

    The model ran before, so what goes wrong under this meter is the meter's own limit.
    """
    try:
        counts = count_active_params(subject.model, inputs.samples[:NUM_ACTIVE_INPUTS])
    except MeterStateError as error:
        return missing("count", str(error))
    except Exception as error:
        return missing("count", f"cannot be observed: {type(error).__name__}: {_first_line(error)}")
    return Metric(value=float(np.mean(counts)), unit="count")


def _bytes(value: int) -> Metric:
    return Metric(value=value, unit="bytes")


def _device_memory(seen: InferenceMemory, size: int) -> Metrics:
    """What the caching allocator reserved and the device lost, on a GPU only."""
    if seen.window.reserved_bytes is None:
        return {}
    used = seen.window.device_used_bytes
    return {
        f"infer/reserved_bytes_b{size}": _bytes(seen.window.reserved_bytes),
        f"infer/device_used_bytes_b{size}": missing("bytes", "other processes use this GPU")
        if used is None
        else _bytes(used),
    }


def _largest_batch(subject: Subject, inputs: Inputs) -> Metric:
    """The largest batch that fits on the GPU, made of the first input repeated."""
    if subject.device.type != "cuda":
        return missing("count", "no GPU: a CPU's memory has no sharp edge")
    sample = inputs.samples[0]

    @torch.inference_mode()
    def run(size: int) -> None:
        subject.model(repeated(sample, size))

    try:
        return Metric(value=find_largest_batch(run), unit="count")
    except Exception as error:  # a kernel's own limit, not that of the memory
        return missing("count", f"it ended with {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def repeated(sample: Batch, size: int) -> Batch:
    """A batch of `size` times the one sample in `sample`."""
    return sample.select(torch.zeros(size, dtype=torch.long, device=sample.inputs.device))
