"""Parameters and the peak of live tensors at inference, per batch size."""

from __future__ import annotations

import numpy as np
import torch

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.memory import InferenceMemory, inference_memory, largest_batch
from bench.meters.parameters import active_params, resident_params
from bench.record import Metric, missing
from bench.types import Batch

NUM_ACTIVE_INPUTS = 8  # for active parameters: every operator is watched, which is slow
NUM_BATCHES = 2  # per size, for the peak: routing differs between inputs


def measure_footprint(subject: Subject, inputs: Inputs) -> Metrics:
    """Parameters, kept and active, and peak memory at the default operating point.

    Runs before the dense baseline exists in this process.
    """
    metrics = {
        "model/params": Metric(value=resident_params(subject.model), unit="count"),
        "model/active_params_per_sample": _active(subject, inputs),
    }
    for size, batches in inputs.by_size.items():
        seen = [inference_memory(subject.model, batch) for batch in batches[:NUM_BATCHES]]
        highest = max(seen, key=lambda each: each.peak_tensor_bytes)
        metrics[f"infer/peak_tensor_bytes_b{size}"] = _bytes(highest.peak_tensor_bytes)
        metrics |= _device_memory(highest, size)
    metrics["infer/largest_batch"] = _largest_batch(subject, inputs)
    return metrics


def _active(subject: Subject, inputs: Inputs) -> Metric:
    """Parameters that one sample reads, the mean over the first inputs alone."""
    counts = active_params(subject.model, inputs.samples[:NUM_ACTIVE_INPUTS])
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

    return Metric(value=largest_batch(run), unit="count")


def repeated(sample: Batch, size: int) -> Batch:
    """A batch of `size` times the one sample in `sample`."""
    return sample.select(torch.zeros(size, dtype=torch.long, device=sample.inputs.device))
