"""Other counters' opinions on the FLOPs of one input, beside ours. None of them is the headline."""

from __future__ import annotations

from typing import Any

import torch

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.flop_crosscheck import FvcoreCount, macs_fvcore, profiled
from bench.meters.flops import CONVENTION, count
from bench.meters.formulas import version
from bench.record import Metric, missing


def measure_crosscheck(subject: Subject, inputs: Inputs) -> tuple[Metrics, dict[str, Any]]:
    """`infer/macs_fvcore` and `infer/flops_profiler` of the first input, and the details.

    The details hold our own count of the same input, by which convention and formulas, the
    operators that fvcore met and did not count, and the profiler's count by operator: where they
    differ, one of them is wrong.
    """
    sample, model = inputs.samples[0], subject.model
    with torch.inference_mode():
        own = count(model, sample).total
    fvcore = macs_fvcore(model, sample)
    details: dict[str, Any] = {
        "flops": own,
        "convention": CONVENTION,
        "formulas": version(),
        "macs_fvcore": fvcore.macs,
        "fvcore_unsupported_ops": dict(fvcore.unsupported_ops),
    }
    metrics = {"infer/macs_fvcore": _macs(fvcore), "infer/flops_profiler": _NO_PROFILER}
    if subject.device.type == "cpu":
        with torch.inference_mode():
            seen = profiled(model, sample)
        metrics["infer/flops_profiler"] = Metric(value=sum(seen.by_op.values()), unit="flop")
        details["profiler_flops"] = seen.by_op
        details["has_sparse_operands"] = seen.has_sparse
    return metrics, {"flop_crosscheck": details}


def unseen_flops(details: dict[str, Any]) -> int:
    """FLOPs of that input that the profiler saw and the ledger did not; 0 where it cannot tell.

    The profiler misses ops that the ledger knows and never the other way round, except that it
    takes sparse operands for dense ones. More than the ledger's is work that hid from it: in a
    thread that Python did not start, or with dispatch modes switched off.
    """
    told = details["flop_crosscheck"]
    if told.get("has_sparse_operands", True):
        return 0
    return max(0, sum(told["profiler_flops"].values()) - told["flops"])


_NO_PROFILER = missing("flop", "the profiler's FLOPs are read on a CPU")


def _macs(fvcore: FvcoreCount) -> Metric:
    """fvcore's MACs as it gives them: the operators that it skipped stand in the details."""
    if fvcore.macs is None:
        return missing("mac", fvcore.reason or "unknown")
    return Metric(value=fvcore.macs, unit="mac")
