"""A contract about what can be counted: all of a method's work is in operations of torch."""

from __future__ import annotations

import torch

from bench.check.candidate import CROWD, Candidate
from bench.check.comparison import at
from bench.check.contract import Broken, NotDefined
from bench.check.contracts.flops import count_pass
from bench.meters.flops.entries import count_entries

SEEDS = (21, 22, 23)  # of small batches: constants are the same for all of them


def all_is_counted(candidate: Candidate) -> None:
    """Every product is an operation with a formula, and no result comes from outside torch."""
    if candidate.resolved.flags.reads_targets:
        raise NotDefined("a control that recognises samples by their bytes (reads_targets)")
    alone, crowd = candidate.tiny.batch(1, 20), candidate.tiny.batch(CROWD, 20)
    for number, (point, model) in enumerate(candidate.at_points()):
        for batch in (crowd, alone)[: 1 if number else None]:
            if not count_pass(candidate, model.eval(), batch).executed:
                raise Broken(f"a batch of {len(batch)} takes no FLOPs at all{at(point)}")
    small = [candidate.tiny.batch(2, seed) for seed in SEEDS]
    with torch.inference_mode():
        num_floats = count_entries(candidate.model, [*small, crowd])
    if num_floats:
        raise Broken(
            f"{num_floats:,} floats that depend on the input come into torch in one pass: what "
            "computed them is in no operation, and not counted"
        )
