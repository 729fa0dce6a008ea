"""Parameters and the peak of live tensors at inference, per batch size."""

from __future__ import annotations

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.memory import inference_memory
from bench.record import Metric


def measure_footprint(subject: Subject, inputs: Inputs) -> Metrics:
    """`model/params` and `infer/peak_tensor_bytes_b{B}` at the default operating point.

    Runs before the dense baseline exists in this process.
    """
    num_params = sum(parameter.numel() for parameter in subject.model.parameters())
    metrics = {"model/params": Metric(value=num_params, unit="count")}
    for size, batches in inputs.by_size.items():
        peak = max(
            inference_memory(subject.model, batch).peak_tensor_bytes for batch in batches[:4]
        )
        metrics[f"infer/peak_tensor_bytes_b{size}"] = Metric(value=peak, unit="bytes")
    return metrics
