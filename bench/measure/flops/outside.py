"""Work outside torch, where no counter looks: floats that leave it, and floats that come in.

What the model computes in NumPy, in compiled code, in another process or an older thread needs its
operands out of torch and its result back in. Either voids the FLOP figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.meters.flops.counter import count
from bench.meters.flops.entries import count_entries
from bench.meters.flops.exits import watch_exits
from bench.types import Batch

NUM_PROBED = 3  # inputs alone; with one batch of the largest size


def find_outside_work(subject: Subject, inputs: Inputs) -> list[str]:
    """What shows that work is done outside torch; empty where nothing does.

    A control that recognises samples by their bytes is excepted: it computes nothing from them.
    """
    if subject.method.flags.reads_targets:
        return []
    probed = [*inputs.samples[:NUM_PROBED], inputs.by_size[inputs.largest][0]]
    with torch.inference_mode():
        return [*_leaving(subject.model, probed), *_coming_in(subject.model, probed)]


def _leaving(model: Any, probed: Sequence[Batch]) -> list[str]:
    # Under a count: what the implementation of an operation does is covered by its formula.
    with watch_exits() as found:
        for batch in probed:
            count(model, batch)
    return [
        f"{num:,} floats leave torch by {how} in one call: what is done to them is not counted"
        if num
        else f"the model starts {how}: what it computes is not counted"
        for how, num in found.items()
    ]


def _coming_in(model: Any, probed: Sequence[Batch]) -> list[str]:
    num = count_entries(model, probed)
    if not num:
        return []
    return [
        f"{num:,} floats that depend on the input come into torch in one call: what computed them "
        "is not counted"
    ]
