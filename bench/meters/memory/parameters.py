"""Parameters: the number that a model stores, and the number that one sample really reads.

Active parameters are observed, not declared: every operator's parameter arguments are marked
element by element, through views (a slice of neurons, one expert of a stack) and gathers. A grouped
matrix product marks the groups that received rows. Embedding tables count whole, as in the
literature; sparse and wrapped parameters count their stored elements, read or not. Weights that a
module keeps in a plain attribute count like parameters (`attributes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bench.meters.conditions import evaluation_mode
from bench.meters.flops.control_flow import interpret_control_flow
from bench.meters.flops.formulas.sparse import num_stored
from bench.meters.flops.threads import watch_other_threads
from bench.meters.guard import MeterStateError, refuse_if_dispatch_watched
from bench.meters.memory.attributes import find_kept_tensors, is_weight, unpack_tensors
from bench.meters.memory.reads import ReadMarker


def count_resident_params(model: nn.Module, inputs: Sequence[Any] = ()) -> int:
    """Number of parameters, each once; of sparse ones, the stored elements.

    The first of `inputs` separates weights in plain attributes from what a pass leaves there.
    """
    return sum(num_stored(each) for each in [*_weights(model, inputs), *_packed(model)])


def _weights(model: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    """Parameters, and tensors in plain attributes that are weights by all appearances."""
    with evaluation_mode(model):
        run = (lambda: model(inputs[0])) if inputs else None
        return [*model.parameters(), *filter(is_weight, find_kept_tensors(model, run))]


def _packed(model: nn.Module) -> list[Tensor]:
    return list(filter(is_weight, unpack_tensors(model)))


def count_active_params(model: nn.Module, inputs: Sequence[Any]) -> list[int]:
    """Number of parameters that each of `inputs` (batches of one sample) reads in inference.

    Raises MeterStateError under another dispatch mode or a profiler, and where other threads
    worked, because their reads were not seen.
    """
    refuse_if_dispatch_watched("active parameters")
    weights = _weights(model, inputs)
    # Which elements of a packed weight a kernel reads is not visible: they count whole.
    num_packed = sum(map(num_stored, _packed(model)))
    counts = []
    with (
        evaluation_mode(model),
        watch_other_threads() as others,
        interpret_control_flow(_is_watched_here),
    ):
        for each in inputs:
            with ReadMarker(weights) as marker:  # new marks per sample
                model(each)
            counts.append(marker.num_read() + num_packed)
    if others:
        names = ", ".join(dict.fromkeys(others))
        raise MeterStateError(f"active parameters: reads in other threads ({names}) were not seen")
    return counts


def _is_watched_here() -> bool:
    return any(isinstance(mode, ReadMarker) for mode in _get_current_dispatch_mode_stack())
