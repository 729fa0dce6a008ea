"""How a model routes: one schema for every family, in every record's `diagnostics["routing"]`.

    num_gates, num_samples          gates, and samples that were issued (each equally often)
    gates[]                         one entry per gate or branched layer:
      name, executed_share          share of elements (of element x group pairs) that run
      union_share                   share of a gate's units that run for any element of the largest
                                    batch, mean over batches: what a product of the whole batch
                                    would still need; null without units
      load, imbalance, dead         per group: share of what runs; largest / mean; unused groups
      entropy                       mean of the probabilities' entropy, 1 = undecided
      margin                        mean gap from the surest that does not run to the least sure
                                    that does
      collapsed                     the gate does the same for practically every element
    dead_branches, collapsed        the same alarms by name
    depth_histogram                 share of elements by the number of gates that ran
    exit_histogram                  the same where gates are nested, that is exits
    num_paths, path_entropy         different routes that elements took; entropy in nat. A token's
                                    route ends where it merges into another one, which continues
    by_frame[]                      the same by what gates decide on: an encoder's tokens are not
                                    the decoder's; gates (names) and those four fields, which stand
                                    above for all gates where there is one frame
    budget_error                    share of gated compute that ran minus the budget that training
                                    aimed at, where the model's stats hold it
    compute_difficulty_correlation  Spearman's, of FLOPs per input with the task's difficulty
    by_task[]                       per task of a mixture: task, num_samples, flops_per_sample, and
                                    of every gate name, executed_share and load
    router_flops_share, router_time_share_b1, ..._b{largest}
    reasons                         why a field is null

An element is a token where a gate decides on tokens, otherwise a sample. Padding is none; of routes
and histograms neither is what no gate decides about, such as a class token that never halts.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from bench import routing
from bench.measure.diagnostics.by_task import measure_by_task
from bench.measure.diagnostics.difficulty import NoCorrelation, compute_difficulty_correlation
from bench.measure.diagnostics.frames import Frame, watch
from bench.measure.diagnostics.paths import Entry, paths, unknown
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.types import Batch, Output

SAME_SHARE = 0.99  # a binary gate that does one thing for more elements than this has collapsed
FEW_GROUPS = 1.1  # as many groups in use as an element needs, and hardly more: collapsed


def measure_routing(subject: Subject, inputs: Inputs, flops: np.ndarray, metrics: Metrics) -> Entry:
    """The entry `routing` at the operating point that is set.

    `flops` [num_inputs]: executed at batch 1 in the order of `inputs.samples`; `metrics`: those of
    the same point, for the router's shares.
    """
    size = max(inputs.by_size)
    frames = watch(subject.model.eval(), inputs.by_size[size])
    reasons: dict[str, str] = {}
    gates = [describe(frame) for frame in frames]
    return {
        "num_gates": len(gates),
        "num_samples": inputs.num_issued(size),
        "gates": gates,
        "dead_branches": [f"{gate['name']}.{k}" for gate in gates for k in gate["dead"] or ()],
        "collapsed": [gate["name"] for gate in gates if gate["collapsed"]],
        **paths(frames, reasons),
        "budget_error": measure_budget_error(subject, inputs.by_size[size], reasons),
        "compute_difficulty_correlation": _correlation(subject, inputs, flops, reasons),
        "by_task": _by_task(subject, inputs, frames, flops, reasons),
        **_router_shares(bool(gates), metrics, size, reasons),
        "reasons": reasons,
    }


def describe(frame: Frame) -> Entry:
    """One gate's entry."""
    load = _load(frame)
    return {
        "name": frame.name,
        "executed_share": float(frame.executed.double().mean()),
        "union_share": frame.union,
        "load": load,
        "imbalance": max(load) * len(load) if load else None,
        "dead": [k for k, share in enumerate(load) if share == 0] if load else None,
        "entropy": _entropy(frame),
        "margin": _margin(frame),
        "collapsed": _has_collapsed(frame, load),
    }


def _load(frame: Frame) -> list[float] | None:
    """Each group's share of what runs; None without groups, or where nothing runs."""
    if not frame.has_units or not frame.run.any():
        return None
    counts = frame.run.flatten(0, -2).sum(0).double()
    return [float(share) for share in counts / counts.sum()]


def _entropy(frame: Frame) -> float | None:
    """Mean entropy of the probabilities, as a share of the largest possible one."""
    if frame.has_units:
        p = frame.probability.flatten(0, -2).double()
        p = p / p.sum(-1, keepdim=True)
        entropy = -torch.xlogy(p, p).sum(-1) / math.log(max(2, p.shape[-1]))
    else:
        p = frame.probability.double().clamp(0, 1)
        entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)
    known = entropy[entropy.isfinite()]
    return float(known.mean()) if known.numel() else None


def _margin(frame: Frame) -> float | None:
    """Mean over rows of: lowest probability that runs - highest that does not, if a row has both.

    A row is an element's groups, a sample's tokens, or all samples.
    """
    run = frame.run.reshape(-1, frame.run.shape[-1])
    probability = frame.probability.reshape(run.shape)
    known = probability.isfinite()
    lowest = probability.masked_fill(~(run & known), torch.inf).amin(-1)
    highest = probability.masked_fill(run | ~known, -torch.inf).amax(-1)
    gap = (lowest - highest)[lowest.isfinite() & highest.isfinite()]
    return float(gap.mean()) if gap.numel() else None


def _has_collapsed(frame: Frame, load: list[float] | None) -> bool:
    if load is None:
        share = float(frame.executed.double().mean())
        return share > SAME_SHARE or share < 1 - SAME_SHARE
    per_element = float(frame.executed.sum(-1).double().mean())
    if per_element > len(load) / FEW_GROUPS:
        return False  # nearly every group runs for everyone: nothing to choose
    in_use = math.exp(float(stats.entropy(load)))
    return in_use <= FEW_GROUPS * max(1.0, per_element)


def _correlation(
    subject: Subject, inputs: Inputs, flops: np.ndarray, reasons: dict[str, str]
) -> float | None:
    try:
        return compute_difficulty_correlation(subject.task, inputs, flops)
    except NoCorrelation as answer:
        reasons["compute_difficulty_correlation"] = str(answer)
        return None


@torch.inference_mode()
def measure_budget_error(
    subject: Subject, batches: list[Batch], reasons: dict[str, str]
) -> float | None:
    """The mean of the batches' `stats["budget_error"]`, weighted by their samples."""
    found, num_samples = 0.0, 0
    for batch in batches:
        with routing.observe():  # a model may keep no statistics where nothing reads them
            output = subject.model(batch)
        given = output.stats if isinstance(output, Output) else {}
        if "budget_error" not in given:
            reasons["budget_error"] = "the model states no budget at this operating point"
            return None
        found += float(given["budget_error"]) * len(batch)
        num_samples += len(batch)
    return found / num_samples


def _by_task(
    subject: Subject,
    inputs: Inputs,
    frames: list[Frame],
    flops: np.ndarray,
    reasons: dict[str, str],
) -> list[Entry] | None:
    try:
        return measure_by_task(subject.task, inputs, frames, flops)
    except NoCorrelation as answer:
        reasons["by_task"] = str(answer)
        return None


def _router_shares(has_gates: bool, metrics: Metrics, size: int, reasons: dict[str, str]) -> Entry:
    """The router's part of FLOPs and time; a router that multiplies nothing has 0 FLOPs."""
    found: Entry = dict.fromkeys(("router_flops_share", *_time_names(size)))
    if not has_gates:
        return unknown(found, reasons, "the method announced no decision")
    whole, spent = metrics["infer/flops_per_sample"], metrics.get("infer/flops_router")
    if whole.shown:
        found["router_flops_share"] = (spent.shown or 0) / whole.shown if spent else 0.0
    for name in _time_names(size):
        share = metrics.get(f"infer/{name.replace('router_time_share', 'time_share_router')}")
        found[name] = None if share is None else share.shown
    for name in (name for name, value in found.items() if value is None):
        reasons[name] = "not counted, or the method names no region 'router'"
    return found


def _time_names(size: int) -> list[str]:
    return [f"router_time_share_b{each}" for each in sorted({1, size})]
