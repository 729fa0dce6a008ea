"""Independent opinions on the ledger's count: torch's profiler, and fvcore on one trace.

    profiler  sees inside fused CPU kernels (multi-head fast path, grouped_mm), custom ops and other
              threads; blind to fused attention, mv, dot, recurrent layers, _addmm_activation
    fvcore    the theoretical column: MACs of what one traced input takes; counts nothing where it
              has no handler, and says which ops those were

Neither is ever the headline: a difference is a question to ask of both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.meters.guard import refuse_if_dispatch_watched
from bench.types import Batch

# The profiler also gives add and mul one FLOP per element; those are no MACs.
_PROFILED = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::conv2d"})
# fvcore gives normalisation and resampling a FLOP per element in the same column; no MACs either.
_MACS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})


class Profiled(NamedTuple):
    """FLOPs (2 x MAC) by op; sparse operands count there as if they were dense, and twice."""

    by_op: dict[str, int]
    has_sparse: bool


def profiler_flops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, int]:
    """FLOPs (2 x MAC) of one call by op, as torch's profiler sees them on the CPU, in all threads.

    Raises MeterStateError under a dispatch mode or another profiler.
    """
    return profiled(fn, *args, **kwargs).by_op


def profiled(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Profiled:
    """The same, and whether the call had sparse operands."""
    refuse_if_dispatch_watched("profiler FLOPs")
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(
        activities=[ProfilerActivity.CPU],
        record_shapes=True,
        with_flops=True,
        experimental_config=everywhere,
        acc_events=True,  # one cycle: nothing to clear, and no warning about it
    ) as seen:
        fn(*args, **kwargs)
    events = seen.key_averages()
    by_op = {event.key: event.flops for event in events if event.key in _PROFILED}
    return Profiled(by_op, any(event.key == "aten::_nnz" for event in events))


class FvcoreCount(NamedTuple):
    """fvcore's MACs of one traced call, or None and why; ops it met and did not count."""

    macs: int | None
    unsupported_ops: Mapping[str, int]
    reason: str | None = None


def macs_fvcore(model: nn.Module, batch: Batch) -> FvcoreCount:
    """MACs of `model(batch)` by fvcore's trace: matrix products and convolutions only.

    Never raises: fvcore cannot trace every model (sparse weights, scripted modules, control flow
    operators), and then `macs` is None with the reason. The model runs once, without gradients.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            from fvcore.nn import FlopCountAnalysis

            traced = FlopCountAnalysis(_Traceable(model, batch), _tensors(batch))
            traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            counted = traced.by_operator()
            skipped = {name: int(times) for name, times in traced.unsupported_ops().items()}
    except Exception as error:
        cause = str(error).strip().split("\n")[0]
        return FvcoreCount(None, {}, f"fvcore could not trace it: {type(error).__name__}: {cause}")
    return FvcoreCount(int(sum(n for name, n in counted.items() if name in _MACS)), skipped)


_FIELDS = ("inputs", "targets", "mask", "decoder_inputs")


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    given = (getattr(batch, name) for name in _FIELDS)
    return tuple(tensor for tensor in given if tensor is not None)


class _Traceable(nn.Module):
    """The model as tracing wants it: tensors in, logits out."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.names = [name for name in _FIELDS if getattr(batch, name) is not None]

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(Batch(**dict(zip(self.names, tensors, strict=True)))).logits
