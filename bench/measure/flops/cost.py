"""Executed FLOPs: every input alone, then batched, method and dense model over the same inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from bench import routing
from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import SampleCounts, count_samples
from bench.records.catalogue import (
    BYTES_TOUCHED,
    CAUSAL_FLOPS,
    DECLARED_FLOPS,
    FLOPS,
    FLOPS_BATCHED,
    FLOPS_SHARE,
    POINTWISE_ELEMS,
    REGION_FLOPS,
    TAU,
    UNKNOWN_OPS,
)
from bench.records.entry import Entry
from bench.records.record import Metric
from bench.types import Batch

NO_DECISION = "the method announced no decision"


@dataclass
class DenseCost:
    """The dense model's executed FLOPs per sample, by batch size, over the same inputs."""

    per_sample: dict[int, float] = field(default_factory=dict)
    doubt: str | None = None  # why they are only lower bounds: every ratio to them is one too
    pointwise_elems: float | None = None  # written by elementwise operations, per sample alone


def measure_dense_cost(baseline: nn.Module, inputs: Inputs) -> DenseCost:
    """Executed FLOPs per sample of the dense model at every batch size."""
    counts = {size: count_inference(baseline, each) for size, each in inputs.by_size.items()}
    # The first doubt of any size makes all ratios lower bounds.
    doubts = (doubt for count in counts.values() if (doubt := doubt_of(count)))
    return DenseCost(
        {size: count.total / inputs.num_issued(size) for size, count in counts.items()},
        next((f"dense model: {doubt}" for doubt in doubts), None),
        counts[1].pointwise_elems / len(inputs.samples),
    )


def measure_cost(subject: Subject, inputs: Inputs, dense: DenseCost) -> Part:
    """The FLOP metrics at the point that is set; raw: FLOPs of each input alone [num_inputs].

    Counts with an operation that has no formula keep their number and are marked invalid: they are
    a lower bound.
    """
    model = subject.model
    alone = count_inference(model, inputs.samples)
    metrics = _metrics_alone(alone, dense)
    for size, batches in inputs.by_size.items():
        # Batched counts differ from counts alone: padding, capacity, work shared by a batch.
        counts = alone if size == 1 else count_inference(model, batches)
        metrics |= _batched_metrics(counts, size, inputs.num_issued(size), dense)
    metrics[DECLARED_FLOPS.at()] = _declared(subject, inputs)
    return Part(metrics, raw={"flops": np.array(alone.per_batch, dtype=np.int64)})


def count_inference(model: nn.Module, batches: Sequence[Batch]) -> SampleCounts:
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


def _metrics_alone(alone: SampleCounts, dense: DenseCost) -> Metrics:
    """What is counted of each input alone, as means over inputs."""
    num, doubt = len(alone.per_batch), doubt_of(alone)
    mean = float(np.array(alone.per_batch, dtype=np.float64).mean())
    models = ("method", "dense model")
    # At batch 1, where padding and capacity cannot blur what a sample itself costs.
    share = _ratio(FLOPS_SHARE, mean, dense.per_sample[1], models, doubt or dense.doubt)
    regions = {
        REGION_FLOPS.at(region): metric(REGION_FLOPS, total / num, doubt)
        for region, total in alone.by_region.items()
    }
    # How often, not how many names: an op that runs once is not one in every layer.
    num_unknown = sum(alone.ops_without_formula.values())
    return {
        FLOPS.at(): metric(FLOPS, mean, doubt),
        FLOPS_SHARE.at(): share,
        UNKNOWN_OPS.at(): metric(UNKNOWN_OPS, num_unknown),
        CAUSAL_FLOPS.at(): metric(CAUSAL_FLOPS, alone.causal / num, doubt),  # masked half left out
        POINTWISE_ELEMS.at(): metric(POINTWISE_ELEMS, alone.pointwise_elems / num),
        BYTES_TOUCHED.at(): metric(BYTES_TOUCHED, alone.bytes_touched / num),
        **regions,
    }


def _batched_metrics(counts: SampleCounts, size: int, num_issued: int, dense: DenseCost) -> Metrics:
    per_sample, doubt = counts.total / num_issued, doubt_of(counts)
    models = ("dense model", "method")
    tau = _ratio(TAU, dense.per_sample[size], per_sample, models, doubt or dense.doubt)
    return {
        FLOPS_BATCHED.at(size): metric(FLOPS_BATCHED, per_sample, doubt),
        TAU.at(size): tau,
    }


def _ratio(
    entry: Entry, part: float, whole: float, names: tuple[str, str], doubt: str | None
) -> Metric:
    """part / whole of two models' FLOPs, by their `names`; missing where one of them ran none."""
    for flops, name in zip((part, whole), names, strict=True):
        if not flops:
            return missing_metric(entry, f"the {name} executed no FLOPs")
    return metric(entry, part / whole, doubt)


def _declared(subject: Subject, inputs: Inputs) -> Metric:
    """What the method's decisions declare as their cost, per input alone."""
    total, doubt = 0.0, None
    with torch.inference_mode():
        for batch in inputs.samples:
            # A pass of its own: decisions are observed here, and not while FLOPs are counted.
            with routing.observe() as seen:
                subject.model(batch)
            flops, problem = declared_flops(subject, seen)
            total, doubt = total + flops, doubt or problem
    if total == 0:
        return missing_metric(DECLARED_FLOPS, NO_DECISION)
    return metric(DECLARED_FLOPS, total / len(inputs.samples), doubt)


def declared_flops(subject: Subject, seen: routing.Observation) -> tuple[float, str | None]:
    """The FLOPs of the decisions in `seen` as declared; NaN and the reason where they are none.

    A hook that declares nonsense costs these figures, not the trial: what runs is counted anyway.
    """
    try:
        return subject.declared_flops(seen), None
    except (TypeError, ValueError) as error:
        return math.nan, str(error)
