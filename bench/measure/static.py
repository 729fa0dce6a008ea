"""Parameters and executed FLOPs of an untrained model, at each of its operating points.

The counts are of inputs alone, one pass each. On the meta device what depends on the values of
tensors cannot run: its FLOPs are missing with the reason, and parameters are counted all the same.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.config import MeasureConfig
from bench.measure.findings import Findings
from bench.measure.flops.cost import count_inference, doubt_of
from bench.measure.inputs import choose_inputs, draw_samples
from bench.measure.metrics import metric, missing_metric
from bench.measure.stated_share import force_share, stated_experts
from bench.measure.subject import Metrics
from bench.meters.memory.parameters import count_resident_params
from bench.plugins.hooks import ResolvedMethod
from bench.records.catalogue import (
    CAUSAL_FLOPS,
    FLOPS,
    PARAMS,
    POINTWISE_ELEMS,
    REGION_FLOPS,
    UNKNOWN_OPS,
)
from bench.records.record import PointResult
from bench.types import Batch, Point, Task

UNTRAINED = "untrained weights and random inputs: parameters and FLOPs only"
META = "counted on the meta device: no value was computed"


def measure_static(
    model: nn.Module,
    method: ResolvedMethod,
    task: Task,
    config: MeasureConfig,
    device: torch.device,
) -> Findings:
    """Count `model`; findings without quality, time, memory or energy.

    With measure.force_share or measure.routing the gates do what is stated, at the default point
    alone.
    """
    # First: what a pass leaves in plain attributes, such as mixed weights, looks like parameters.
    params = metric(PARAMS, count_resident_params(model))
    inputs = choose_inputs(task, config.num_inputs, [1], device, blind=True)
    findings = Findings(notes=[UNTRAINED, *([META] if config.meta else [])])
    points: list[Point] = method.hooks.points() if method.hooks.points else [{}]
    experts = stated_experts(config, config.num_inputs)
    if config.force_share is not None or experts is not None:
        drawn = draw_samples(task, config.num_inputs).to(device)
        forced = force_share(model, config.force_share, drawn, experts)
        findings.notes.append(forced.note)
        points = points[:1] if forced.any else points
    for point in points:
        if method.hooks.set_point is not None and point:
            method.hooks.set_point(model, point)
        found = _counts(model, inputs.samples, config.meta)
        findings.points.append(PointResult(settings=dict(point), metrics=found))
    findings.metrics = {PARAMS.at(): params, **findings.points[0].metrics}
    return findings


def _counts(model: nn.Module, samples: list[Batch], on_meta: bool) -> Metrics:
    """FLOPs of the mean input at the point that is set."""
    try:
        counts = count_inference(model, samples)
    except (RuntimeError, NotImplementedError) as error:
        if not on_meta:
            raise
        line = str(error).partition("\n")[0]
        return {FLOPS.at(): missing_metric(FLOPS, f"no pass on the meta device: {line}")}
    num, doubt = len(samples), doubt_of(counts)
    return {
        FLOPS.at(): metric(FLOPS, counts.total / num, doubt),
        CAUSAL_FLOPS.at(): metric(CAUSAL_FLOPS, counts.causal / num, doubt),
        POINTWISE_ELEMS.at(): metric(POINTWISE_ELEMS, counts.pointwise_elems / num),
        UNKNOWN_OPS.at(): metric(UNKNOWN_OPS, sum(counts.ops_without_formula.values())),
        **{
            REGION_FLOPS.at(region): metric(REGION_FLOPS, total / num, doubt)
            for region, total in counts.by_region.items()
        },
    }
