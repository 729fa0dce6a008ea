"""Parameters and the peak of live tensors at inference, per batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.guard import MeterStateError
from bench.meters.memory.parameters import count_active_params, count_resident_params
from bench.meters.memory.tensors import (
    InferenceMemory,
    find_largest_batch,
    measure_inference_memory,
)
from bench.records.catalogue import (
    ACTIVE_PARAMS,
    DEVICE_BYTES,
    LARGEST_BATCH,
    PARAMS,
    PEAK_BYTES,
    RESERVED_BYTES,
)
from bench.records.record import Metric
from bench.types import Batch

NUM_ACTIVE_INPUTS = 8  # for active parameters: every operator is watched, which is slow
NUM_BATCHES = 2  # per size, for the peak: routing differs between inputs


def measure_footprint(subject: Subject, inputs: Inputs) -> Part:
    """Parameters, kept and active, and peak memory at the default operating point.

    Runs before the dense baseline exists in this process.
    """
    metrics = {
        PARAMS.at(): metric(PARAMS, count_resident_params(subject.model, inputs.samples[:1])),
        ACTIVE_PARAMS.at(): _active_params(subject, inputs),
    }
    for size, batches in inputs.by_size.items():
        metrics |= _peak(subject, batches[:NUM_BATCHES], size)
    # Last: the search fills the GPU until it fails.
    metrics[LARGEST_BATCH.at()] = _largest_batch(subject, inputs)
    return Part(metrics)


def _peak(subject: Subject, batches: Sequence[Batch], size: int) -> Metrics:
    """The highest peak of some batches, in doubt where a part of one was not observed."""
    key = PEAK_BYTES.at(size)
    try:
        seen = [measure_inference_memory(subject.model, batch) for batch in batches]
    except MeterStateError as error:  # of a window that allocated nothing, for example
        return {key: missing_metric(PEAK_BYTES, str(error))}
    highest = max(seen, key=lambda each: each.peak_tensor_bytes)
    # Any batch's doubt counts: the one that was not observed may have had the highest peak.
    doubt = next((each.window.reason for each in seen if each.window.reason), None)
    peak = metric(PEAK_BYTES, highest.peak_tensor_bytes, doubt)
    return {key: peak, **_device_memory(highest, size)}


def _active_params(subject: Subject, inputs: Inputs) -> Metric:
    """Parameters that one sample reads, the mean over the first inputs alone.

    The model ran before, so what fails under this meter is the meter's own limit.
    """
    try:
        counts = count_active_params(subject.model, inputs.samples[:NUM_ACTIVE_INPUTS])
    except MeterStateError as error:
        return missing_metric(ACTIVE_PARAMS, str(error))
    except Exception as error:
        reason = f"cannot be observed: {type(error).__name__}: {_first_line(error)}"
        return missing_metric(ACTIVE_PARAMS, reason)
    return metric(ACTIVE_PARAMS, float(np.mean(counts)))


def _device_memory(seen: InferenceMemory, size: int) -> Metrics:
    """What the caching allocator reserved and the device lost, on a GPU only."""
    if seen.window.reserved_bytes is None:
        return {}  # a CPU's allocator reserves nothing that could be read
    used = seen.window.device_used_bytes
    return {
        RESERVED_BYTES.at(size): metric(RESERVED_BYTES, seen.window.reserved_bytes),
        DEVICE_BYTES.at(size): missing_metric(DEVICE_BYTES, "other processes use this GPU")
        if used is None
        else metric(DEVICE_BYTES, used),
    }


def _largest_batch(subject: Subject, inputs: Inputs) -> Metric:
    """The largest batch that fits on the GPU, made of the first input repeated."""
    if subject.device.type != "cuda":
        return missing_metric(LARGEST_BATCH, "no GPU: a CPU's memory has no sharp edge")
    sample = inputs.samples[0]  # repeated: the test split may have fewer samples than fit

    @torch.inference_mode()
    def run(size: int) -> None:
        subject.model(repeated(sample, size))

    try:
        return metric(LARGEST_BATCH, find_largest_batch(run))
    except Exception as error:  # a kernel's own limit, not that of the memory
        reason = f"it ended with {type(error).__name__}: {_first_line(error)}"
        return missing_metric(LARGEST_BATCH, reason)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def repeated(sample: Batch, size: int) -> Batch:
    """A batch of `size` times the one sample in `sample`."""
    return sample.select(torch.zeros(size, dtype=torch.long, device=sample.inputs.device))
