"""Lower precision inside a row: a method that rounds more than the dense model is named.

A product in half the bits costs the same FLOPs and half the time, so a speed-up may be the format's
and not the method's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.meters.flops.counter import count
from bench.meters.flops.formats import narrower
from bench.types import Batch

NUM_ALONE = 3  # inputs alone, beside a batch of the largest size: a format may depend on the size


def measure_precision(subject: Subject, baseline: nn.Module, inputs: Inputs) -> Part:
    """FLOPs by number format, and a note where the dense model's numbers have more bits."""
    batches = [*inputs.samples[:NUM_ALONE], inputs.by_size[inputs.largest][0]]
    own, dense = _by_format(subject.model, batches), _by_format(baseline, batches)
    formats = {"method": dict(own), "dense": dict(dense)}
    return Part(diagnostics={"number_formats": formats}, notes=_notes(own, dense))


def _by_format(model: nn.Module, batches: Sequence[Batch]) -> Counter[str]:
    found = Counter[str]()
    model.eval()
    with torch.no_grad():
        for batch in batches:
            found.update(count(model, batch).by_format)
    return found


def _notes(own: Mapping[str, int], dense: Mapping[str, int]) -> list[str]:
    found = narrower(own, dense)
    if not found:
        return []
    parts = ", ".join(f"{share:.0%} in {name}" for name, share in sorted(found.items()))
    wide = ", ".join(sorted(name for name, flops in dense.items() if flops))
    return [f"lower precision: of the FLOPs {parts}; the dense model computes in {wide}"]
