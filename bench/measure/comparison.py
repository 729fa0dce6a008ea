"""What exists only beside the dense model: the model itself, its FLOPs, and facts for the gates."""

from __future__ import annotations

from typing import Any

import torch

from bench.measure.flops.cost import DenseCost, measure_dense_cost
from bench.measure.flops.crosscheck import NAME as CROSSCHECK
from bench.measure.plausibility import Facts
from bench.measure.run import Run
from bench.measure.subject import Subject
from bench.meters.memory.storages import storage_bytes
from bench.meters.time.peak import measure_peak_flops


def add_dense_model(run: Run) -> None:
    """Build the dense model and what the method is compared with; memory is measured before."""
    run.baseline = run.subject.make_baseline()  # trains it, if no earlier trial has
    run.dense = measure_dense_cost(run.baseline, run.inputs)
    # The machine's peak is measured in this process, not taken from a data sheet.
    run.facts = collect_facts(run.subject, run.findings.diagnostics[CROSSCHECK], run.dense)


def collect_facts(subject: Subject, crosscheck: dict[str, Any], dense: DenseCost) -> Facts:
    """What the numbers are held against."""
    return Facts(
        peak_flops=_peak_flops(subject),
        parameter_bytes=storage_bytes(subject.model.parameters()),
        is_control=subject.is_dense,
        # A CPU has the first of the two, a GPU the second.
        unseen_flops=crosscheck.get("unseen_flops", 0),
        untracked_kernels=tuple(crosscheck.get("untracked_kernels", ())),
        dense_elems=dense.pointwise_elems,
        batch_elems=crosscheck.get("pointwise_elems_in_batch"),
        flop_doubts=tuple(crosscheck.get("doubts", ())),
    )


def _peak_flops(subject: Subject) -> float:
    """The fastest product in any number format that the model may compute in.

    Autocast lowers some operations and leaves the others in the parameters' format, and on
    processors without fp16 arithmetic the lower format is the slower one.
    """
    kind = subject.device.type
    # One parameter stands for all; a model without any computes in float32.
    formats = {next((each.dtype for each in subject.model.parameters()), torch.float32)}
    if torch.is_autocast_enabled(kind):
        formats.add(torch.get_autocast_dtype(kind))
    return max(measure_peak_flops(each, device=kind) for each in formats)
