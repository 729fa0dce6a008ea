"""FLOPs of one input by other counters, beside ours. None of them is the headline."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from bench.measure.findings import Part
from bench.measure.flops.outside import NUM_PROBED, find_outside_work
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import CONVENTION, FlopCount, count
from bench.meters.flops.crosscheck import FvcoreCount, macs_fvcore, profiler_excess
from bench.meters.flops.formulas.table import version
from bench.meters.flops.profiled import ProfilerCount, run_profiler
from bench.meters.flops.stray_kernels import count_stray_kernels
from bench.records.catalogue import DECLARED_FLOPS, FLOPS, FLOPS_PROFILER, MACS_FVCORE
from bench.records.record import Metric
from bench.types import Batch

NAME = "flop_crosscheck"  # of the entry in the diagnostics
NO_PROFILER = missing_metric(FLOPS_PROFILER, "the profiler's FLOPs are read on a CPU")


def measure_crosscheck(subject: Subject, inputs: Inputs) -> Part:
    """`infer/macs_fvcore` and `infer/flops_profiler` of the first input, and the details.

    The details hold our own count of the same input, by which convention and formulas, which of it
    rests on a plugin's formulas, the operators that fvcore met and did not count, and the
    profiler's count by operator: where they differ, one of them is wrong. `unseen_flops` is what
    the profiler saw and the ledger did not, the most of a few inputs and a batch; on a GPU
    `untracked_kernels` are those that no torch operation launched. `doubts` are signs of work
    outside torch, in words.
    """
    sample, model = inputs.samples[0], subject.model
    with torch.inference_mode():
        own = count(model, sample)
    # Outside inference mode: fvcore traces the model, which needs ordinary tensors.
    fvcore = macs_fvcore(model, sample)
    details = _details(own, fvcore) | {"doubts": find_outside_work(subject, inputs)}
    metrics = {MACS_FVCORE.at(): _macs(fvcore), FLOPS_PROFILER.at(): NO_PROFILER}
    if subject.device.type == "cpu":
        seen, more = _profile(model, inputs)
        metrics[FLOPS_PROFILER.at()] = metric(FLOPS_PROFILER, sum(seen.by_op.values()))
        details |= more
    else:
        # torch's profiler has no FLOPs of CUDA kernels: their launches are compared instead.
        with torch.inference_mode():
            details["untracked_kernels"] = count_stray_kernels(model, sample)
    return Part(metrics, diagnostics={NAME: details}, notes=_notes(own))


def measure_declared_excess(metrics: Metrics) -> Part:
    """FLOPs of a sample alone that the decisions declare beyond those executed; None: unknown.

    Negative where the gates decide on a part of the model only, as most do.
    """
    declared, executed = (metrics[entry.at()].value for entry in (DECLARED_FLOPS, FLOPS))
    excess = None if declared is None or executed is None else declared - executed
    return Part(diagnostics={NAME: {"declared_minus_executed": excess}})


def _details(own: FlopCount, fvcore: FvcoreCount) -> dict[str, Any]:
    return {
        "flops": own.total,
        "flops_by_plugin_formula": dict(own.by_plugin),
        "convention": CONVENTION,
        "formulas": version(),  # a hash: counts are comparable where it is equal
        "macs_fvcore": fvcore.macs,
        "fvcore_unsupported_ops": dict(fvcore.unsupported_ops),  # met, and counted as nothing
    }


def _notes(own: FlopCount) -> list[str]:
    """A reader of the row has to trust these numbers to the plugin's author."""
    names = ", ".join(sorted(own.by_plugin))
    return [f"FLOPs from unverified plugin formulas: {names}"] if names else []


class _Probed(NamedTuple):
    seen: ProfilerCount
    unseen: int
    elems: float  # written by elementwise work, per sample


def _profile(model: nn.Module, inputs: Inputs) -> tuple[ProfilerCount, dict[str, Any]]:
    """The profiler's count of the first input, and what it saw beyond the ledger in several."""
    # Work may hide from the ledger on some inputs only, or in batches only.
    batch = inputs.by_size[inputs.largest][0]
    probed = [_probe(model, each) for each in (*inputs.samples[:NUM_PROBED], batch)]
    seen = probed[0].seen
    return seen, {
        "profiler_flops": seen.by_op,
        "sparse_products": seen.num_sparse,  # left out: shapes do not show what is stored
        "unseen_flops": max(each.unseen for each in probed),
        "pointwise_elems_in_batch": probed[-1].elems,  # per sample
    }


def _probe(model: nn.Module, batch: Batch) -> _Probed:
    """One batch under both counters, one after the other: they would see each other's work."""
    with torch.inference_mode():
        counted = count(model, batch)
        seen = run_profiler(model, batch)
    return _Probed(seen, profiler_excess(counted, seen), counted.pointwise_elems / len(batch))


def _macs(fvcore: FvcoreCount) -> Metric:
    """fvcore's MACs as it gives them: the operators that it skipped stand in the details."""
    if fvcore.macs is None:
        return missing_metric(MACS_FVCORE, fvcore.reason or "unknown")
    return metric(MACS_FVCORE, fvcore.macs)
