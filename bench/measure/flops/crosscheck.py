"""Other counters' opinions on the FLOPs of one input, beside ours. None of them is the headline."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.flops.counter import CONVENTION, count
from bench.meters.flops.crosscheck import (
    FvcoreCount,
    ProfilerCount,
    macs_fvcore,
    profiler_excess,
    run_profiler,
)
from bench.meters.flops.formulas import version
from bench.meters.flops.stray_kernels import count_stray_kernels
from bench.records.record import Metric, missing
from bench.types import Batch

NUM_PROBED = 3  # inputs alone; with one batch of the largest size


def measure_crosscheck(subject: Subject, inputs: Inputs) -> tuple[Metrics, dict[str, Any]]:
    """`infer/macs_fvcore` and `infer/flops_profiler` of the first input, and the details.

    The details hold our own count of the same input, by which convention and formulas, which of it
    rests on a plugin's word, the operators that fvcore met and did not count, and the profiler's
    count by operator: where they differ, one of them is wrong. `unseen_flops` is what the profiler
    saw and the ledger did not, the most of a few inputs and a batch; on a GPU `untracked_kernels`
    are those that no torch operation launched.
    """
    sample, model = inputs.samples[0], subject.model
    with torch.inference_mode():
        own = count(model, sample)
    fvcore = macs_fvcore(model, sample)
    details: dict[str, Any] = {
        "flops": own.total,
        "flops_by_plugin_formula": dict(own.by_plugin),
        "convention": CONVENTION,
        "formulas": version(),
        "macs_fvcore": fvcore.macs,
        "fvcore_unsupported_ops": dict(fvcore.unsupported_ops),
    }
    metrics = {"infer/macs_fvcore": _macs(fvcore), "infer/flops_profiler": _NO_PROFILER}
    if subject.device.type == "cpu":
        batch = inputs.by_size[max(inputs.by_size)][0]
        probed = [_probed(model, each) for each in (*inputs.samples[:NUM_PROBED], batch)]
        seen = probed[0].seen
        metrics["infer/flops_profiler"] = Metric(value=sum(seen.by_op.values()), unit="flop")
        details["profiler_flops"] = seen.by_op
        details["has_sparse_operands"] = seen.has_sparse
        details["unseen_flops"] = max(each.unseen for each in probed)
    else:
        with torch.inference_mode():
            details["untracked_kernels"] = count_stray_kernels(model, sample)
    return metrics, {"flop_crosscheck": details}


class _Probed(NamedTuple):
    seen: ProfilerCount
    unseen: int


def _probed(model: nn.Module, batch: Batch) -> _Probed:
    """One batch under both counters."""
    with torch.inference_mode():
        by_op = count(model, batch).by_op
        seen = run_profiler(model, batch)
    return _Probed(seen, profiler_excess(by_op, seen))


_NO_PROFILER = missing("flop", "the profiler's FLOPs are read on a CPU")


def _macs(fvcore: FvcoreCount) -> Metric:
    """fvcore's MACs as it gives them: the operators that it skipped stand in the details."""
    if fvcore.macs is None:
        return missing("mac", fvcore.reason or "unknown")
    return Metric(value=fvcore.macs, unit="mac")
