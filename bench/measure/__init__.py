"""Which meter runs when, over which inputs, at which operating points and batch sizes.

    resident in a process of its own, while this one goes on until anything is timed
    quality  at every operating point, on the whole test split
    memory   at the default point, before the dense baseline exists in this process
    FLOPs    at every point: each input alone, then batched; the dense model over the same inputs
    time     at the default point (at all with measure.all_points), paired with the dense model
    energy   last, at the same points as time, in windows that alternate with the dense model's
    asked    what only some experiments ask for: time per token, robustness

Probes never run inside the timed region. What cannot be true is marked invalid at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure.blind import method_notes
from bench.measure.diagnostics.deployability import measure_deployability
from bench.measure.diagnostics.routing import measure_routing
from bench.measure.energy.inference import measure_energy
from bench.measure.flops.cost import DenseCost, measure_cost, measure_dense_cost
from bench.measure.flops.crosscheck import measure_crosscheck
from bench.measure.flops.distribution import measure_distribution
from bench.measure.flops.recount import recounted, voided
from bench.measure.flops.saving import measure_saving
from bench.measure.footprint import measure_footprint
from bench.measure.generation import Generating, called, measure_generation
from bench.measure.inputs import Inputs, choose_inputs, further_inputs
from bench.measure.latency import measure_latency, measure_time_shares
from bench.measure.plausibility import Facts, check
from bench.measure.quality.judge import evaluate, quality_label, quality_metrics, quality_notes
from bench.measure.quality.robustness import measure_robustness
from bench.measure.resident import Resident
from bench.measure.speed import measure_speed
from bench.measure.subject import Findings, Metrics, OnPhase, Subject
from bench.meters.memory.storages import storage_bytes
from bench.meters.time.canary import measure_canary_s
from bench.meters.time.peak import measure_peak_flops
from bench.records.record import PointResult, missing
from bench.types import Batch, Point

__all__ = ["Findings", "Subject", "measure"]


def measure(subject: Subject, tell: OnPhase, training: Metrics | None = None) -> Findings:
    """Run every meter on `subject`; `tell(phase, share)` hears where it is.

    `training` holds what training cost: it goes through the same gates and into the findings.
    """
    trained, subject = subject, called(subject)
    config = subject.config
    findings = Findings()
    points = subject.points()
    blind = not subject.method.flags.reads_targets
    inputs = choose_inputs(
        subject.task, config.num_inputs, config.batch_sizes, subject.device, blind=blind
    )
    resident = Resident(subject, inputs)
    _judge_quality(trained, points, findings, tell)
    tell("memory", 0.0)
    whole = measure_footprint(subject, inputs)
    crosschecked, details = measure_crosscheck(subject, inputs)
    findings.diagnostics |= details
    told = details["flop_crosscheck"]["flops_by_plugin_formula"]
    findings.notes += method_notes(subject.method.flags, told)
    whole |= crosschecked | resident.metrics()
    baseline = subject.make_baseline()
    dense = measure_dense_cost(baseline, inputs)
    facts = _facts(subject, details, dense)
    further = _further(subject, blind)
    for number, (point, result) in enumerate(zip(points, findings.points, strict=True)):
        tell("flops", number / len(points))
        cost, findings.raw[f"flops_point{number}"] = measure_cost(subject, point, inputs, dense)
        result.metrics |= cost
        with subject.at(point):
            result.metrics |= _spread(subject, findings, number, further if number == 0 else [])
            if number == 0:
                result.metrics |= measure_saving(subject, inputs, dense)
        if number == 0 or config.all_points:
            tell("time", number / len(points))
            with subject.at(point):
                result.metrics |= _timed(subject, baseline, inputs, findings, number)
        else:
            result.metrics |= _untimed(config.batch_sizes, config.profile)
        result.metrics = check(result.metrics, facts)
    tell("energy", 0.0)
    energies = measure_energy(subject, baseline, inputs, findings)
    for result, energy in zip(findings.points, energies, strict=True):
        result.metrics = check({**result.metrics, **energy}, facts)
    whole |= _on_request(trained, subject, baseline, inputs, findings)
    findings.metrics = check({**(training or {}), **findings.points[0].metrics, **whole}, facts)
    findings.metrics = voided(
        findings.metrics, recounted(subject, inputs, findings.points[0].metrics)
    )
    flops = findings.raw["flops_point0"]
    details["flop_crosscheck"]["declared_minus_executed"] = _declared_too_much(findings.metrics)
    findings.diagnostics["routing"] = measure_routing(trained, inputs, flops, findings.metrics)
    findings.diagnostics["deployability"] = measure_deployability(trained, inputs)
    findings.diagnostics["canary_s"] = measure_canary_s(subject.device)
    return findings


def _judge_quality(
    subject: Subject, points: list[Point], findings: Findings, tell: OnPhase
) -> None:
    """Quality at every operating point; label and notes are those of the default."""
    for number, point in enumerate(points):
        tell("evaluate", number / len(points))
        quality = evaluate(subject, point)
        metrics = quality_metrics(quality)
        findings.points.append(PointResult(settings=dict(point), metrics=metrics))
        if quality.per_sample is not None:
            findings.raw[f"quality_point{number}"] = np.asarray(quality.per_sample)
        if number == 0:
            findings.quality = quality_label(quality)
            findings.notes += quality_notes(quality)


def _further(subject: Subject, blind: bool) -> list[Batch]:
    """More inputs for the distribution of FLOPs; a generation is many calls and gets none."""
    config = subject.config
    if config.workload != "forward":
        return []
    return further_inputs(subject.task, config.num_inputs, subject.device, blind=blind)


def _spread(subject: Subject, findings: Findings, number: int, further: list[Batch]) -> Metrics:
    """The distribution of FLOPs over inputs at the point that is set."""
    timed = findings.raw[f"flops_point{number}"]
    doubt = findings.points[number].metrics["infer/flops_per_sample"].reason
    spread, flops = measure_distribution(subject, timed, doubt, further)
    findings.raw[f"flops_counted_point{number}"] = flops
    return spread


def _timed(
    subject: Subject, baseline: nn.Module, inputs: Inputs, findings: Findings, number: int
) -> Metrics:
    """Everything that a clock says at the point that is set; raw vectors go into `findings`."""
    flops = findings.points[number].metrics
    speed = measure_speed(subject, baseline, inputs, flops)
    findings.raw |= {f"{name}_point{number}": values for name, values in speed.raw.items()}
    findings.diagnostics.setdefault("timing", {})[f"point{number}"] = speed.details
    alone, findings.raw[f"latency_ms_point{number}"] = measure_latency(subject, inputs)
    return {**speed.metrics, **alone, **measure_time_shares(subject, inputs)}


def _on_request(
    trained: Subject, subject: Subject, baseline: nn.Module, inputs: Inputs, findings: Findings
) -> Metrics:
    """What only some experiments ask for; `trained` is the subject as the task sees it."""
    metrics: Metrics = {}
    dense = baseline
    if isinstance(baseline, Generating):
        metrics |= measure_generation(subject, baseline, inputs, findings.points[0].metrics)
        dense = baseline.model
    if subject.config.robustness:
        metrics |= measure_robustness(trained, dense)
    return metrics


def _declared_too_much(metrics: Metrics) -> float | None:
    """FLOPs of a sample alone that the decisions declare beyond those executed; None: unknown.

    Negative where the gates decide on a part of the model only, as most do.
    """
    found = [metrics[f"infer/{name}flops_per_sample"].value for name in ("declared_", "")]
    return None if found[0] is None or found[1] is None else found[0] - found[1]


def _untimed(sizes: list[int], profile: str) -> Metrics:
    reason = f"measure={profile} times the default operating point only"
    return {f"infer/speedup_b{size}": missing("1", reason) for size in sizes}


def _facts(subject: Subject, crosschecked: dict[str, Any], dense: DenseCost) -> Facts:
    """What the numbers are held against."""
    return Facts(
        peak_flops=_peak_flops(subject),
        parameter_bytes=storage_bytes(subject.model.parameters()),
        is_control=subject.is_dense,
        unseen_flops=crosschecked["flop_crosscheck"].get("unseen_flops", 0),
        untracked_kernels=tuple(crosschecked["flop_crosscheck"].get("untracked_kernels", ())),
        dense_elems=dense.pointwise_elems,
    )


def _peak_flops(subject: Subject) -> float:
    """The fastest product in any number format that the model may compute in.

    Autocast lowers some operations and leaves the others in the parameters' format, and on
    processors without fp16 arithmetic the lower format is the slower one.
    """
    kind = subject.device.type
    formats = {next((each.dtype for each in subject.model.parameters()), torch.float32)}
    if torch.is_autocast_enabled(kind):
        formats.add(torch.get_autocast_dtype(kind))
    return max(measure_peak_flops(each, device=kind) for each in formats)
