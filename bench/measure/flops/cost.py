"""Executed FLOPs: every input alone, then batched, method and dense model over the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from bench import routing
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import SampleCounts, count_samples
from bench.records.record import Metric, missing
from bench.types import Batch, Point


@dataclass
class DenseCost:
    """The dense model's executed FLOPs per sample, by batch size, over the same inputs."""

    per_sample: dict[int, float] = field(default_factory=dict)
    doubt: str | None = None  # why they are only lower bounds: every ratio to them is one too
    pointwise_elems: float | None = None  # written by elementwise operations, per sample alone


def measure_dense_cost(baseline: nn.Module, inputs: Inputs) -> DenseCost:
    """Executed FLOPs per sample of the dense model at every batch size."""
    counts = {size: counted(baseline, batches) for size, batches in inputs.by_size.items()}
    doubts = (doubt for count in counts.values() if (doubt := doubt_of(count)))
    return DenseCost(
        {size: count.total / inputs.num_issued(size) for size, count in counts.items()},
        next((f"dense model: {doubt}" for doubt in doubts), None),
        counts[1].pointwise_elems / len(inputs.samples),
    )


def measure_cost(
    subject: Subject, point: Point, inputs: Inputs, dense: DenseCost
) -> tuple[Metrics, np.ndarray]:
    """The FLOP metrics at `point`, and the FLOPs of each input at batch 1 [num_inputs].

    Counts with an operation that has no formula keep their number and are marked invalid: they are
    a lower bound.
    """
    with subject.at(point) as model:
        alone = counted(model, inputs.samples)
        metrics = _batch1_metrics(alone, dense)
        for size, batches in inputs.by_size.items():
            whole = alone if size == 1 else counted(model, batches)
            metrics |= _batched_metrics(whole, size, inputs.num_issued(size), dense)
        metrics["infer/declared_flops_per_sample"] = _declared(subject, model, inputs)
    return metrics, np.array(alone.per_batch, dtype=np.int64)


def counted(model: nn.Module, batches: Sequence[Batch]) -> SampleCounts:
    """Executed FLOPs of inference on each of `batches`."""
    model.eval()
    with torch.no_grad():  # a third faster than inference mode under a count, and the same count
        return count_samples(model, batches)


def doubt_of(counts: SampleCounts) -> str | None:
    """Why a count is only a lower bound; None where it is complete."""
    if counts.complete:
        return None
    names = ", ".join(sorted(counts.ops_without_formula))
    return f"operations without a FLOP formula: {names} (bench.routing.register_formula adds one)"


def _flop(value: float, counts: SampleCounts) -> Metric:
    doubt = doubt_of(counts)
    return Metric(value=value, unit="flop", valid=doubt is None, reason=doubt)


def _batch1_metrics(alone: SampleCounts, dense: DenseCost) -> Metrics:
    flops = np.array(alone.per_batch, dtype=np.float64)
    metrics = {"infer/flops_per_sample": _flop(float(flops.mean()), alone)}
    doubt = doubt_of(alone) or dense.doubt
    models = ("method", "dense model")
    metrics["infer/flops_share"] = _ratio(float(flops.mean()), dense.per_sample[1], models, doubt)
    unknown = sum(alone.ops_without_formula.values())
    metrics["infer/num_unknown_ops"] = Metric(value=unknown, unit="count")
    num = len(flops)
    metrics["infer/flops_causal"] = _flop(alone.causal / num, alone)  # masked half left out
    metrics["infer/pointwise_elems"] = Metric(value=alone.pointwise_elems / num, unit="count")
    metrics["infer/bytes_touched"] = Metric(value=alone.bytes_touched / num, unit="bytes")
    for region, total in alone.by_region.items():
        metrics[f"infer/flops_{region}"] = _flop(total / num, alone)
    return metrics


def _batched_metrics(counts: SampleCounts, size: int, num_issued: int, dense: DenseCost) -> Metrics:
    per_sample = counts.total / num_issued
    doubt = doubt_of(counts) or dense.doubt
    tau = _ratio(dense.per_sample[size], per_sample, ("dense model", "method"), doubt)
    return {
        f"infer/flops_per_sample_b{size}": _flop(per_sample, counts),
        f"infer/tau_b{size}": tau,
    }


def _ratio(part: float, whole: float, names: tuple[str, str], doubt: str | None) -> Metric:
    """part / whole of two models' FLOPs, by their `names`; missing where one of them ran none."""
    for flops, name in zip((part, whole), names, strict=True):
        if not flops:
            return missing("1", f"the {name} executed no FLOPs")
    return Metric(value=part / whole, unit="1", valid=doubt is None, reason=doubt)


def _declared(subject: Subject, model: nn.Module, inputs: Inputs) -> Metric:
    """What the method says its decisions cost, per input alone."""
    total = 0.0
    with torch.inference_mode():
        for batch in inputs.samples:
            with routing.observe() as seen:
                model(batch)
            total += subject.declared_flops(seen)
    if total == 0:
        return missing("flop", "the method announced no decision")
    return Metric(value=total / len(inputs.samples), unit="flop")
