"""Two independent checks of the ledger's count: torch's profiler, and fvcore on one trace.

    profiler  sees inside fused CPU kernels (multi-head fast path, grouped_mm), custom ops and other
              threads; blind to sparse and packed products, and to code that calls no op
    fvcore    the theoretical column: MACs on the path of one traced input; counts nothing where it
              has no handler, and lists those ops

Neither is ever the headline. Where they differ from the ledger, one of the two is wrong.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.meters.flops.counter import FlopCount
from bench.meters.flops.formulas.table import PACKED_LINEARS
from bench.meters.flops.profiled import ProfilerCount, run_profiler
from bench.types import Batch

# Ops that the ledger counts and the profiler does not, not even inside them.
_BLIND = frozenset(
    {
        *PACKED_LINEARS,
        *(f"aten::{name}" for name in ("_embedding_bag", "_embedding_bag_forward_only")),
        "aten::_pdist_forward",
    }
)
# fvcore counts normalisation and resampling in the same column, per element: no MACs either.
_MACS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})


def profiler_flops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, int]:
    """FLOPs (2 x MAC) of one call by op, as torch's profiler sees them on the CPU.

    Raises MeterStateError under a dispatch mode or another profiler.
    """
    return run_profiler(fn, *args, **kwargs).by_op


def profiler_excess(counted: FlopCount, profiler: ProfilerCount) -> int:
    """FLOPs of dense operands that the profiler saw beyond the ledger's.

    An excess is work hidden from the ledger: in a thread that Python did not start, or with
    dispatch modes switched off. Convolutions and products are compared separately, and ops that
    the profiler does not count are left out: an excess of one kind must not be covered by another.
    """
    ledger = {
        op: flops - counted.by_sparse.get(op, 0)
        for op, flops in counted.by_op.items()
        if op not in _BLIND
    }
    kinds = (False, True)  # products, convolutions
    seen = [sum(n for op, n in profiler.by_op.items() if _is_conv(op) is kind) for kind in kinds]
    own = [sum(n for op, n in ledger.items() if _is_conv(op) is kind) for kind in kinds]
    return sum(max(0, there - here) for there, here in zip(seen, own, strict=True))


def _is_conv(op: str) -> bool:
    return "conv" in op and op != "aten::conv_tbc"  # which is made of products


class FvcoreCount(NamedTuple):
    """fvcore's MACs of one traced call, or None with the reason; and the ops without a handler."""

    macs: int | None
    unsupported_ops: Mapping[str, int]
    reason: str | None = None


def macs_fvcore(model: nn.Module, batch: Batch) -> FvcoreCount:
    """MACs of `model(batch)` by fvcore's trace: matrix products and convolutions only.

    Never raises: fvcore cannot trace every model (sparse weights, scripted modules, control flow
    operators), and then `macs` is None with the reason. The model runs once, without gradients,
    and keeps no hook of fvcore's.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad(), _hooks_restored(model):
            warnings.simplefilter("ignore")  # the tracer warns at every branch that depends on data
            from fvcore.nn import FlopCountAnalysis

            traced = FlopCountAnalysis(_Traceable(model, batch), _tensors(batch))
            traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            counted = traced.by_operator()
            skipped = {name: int(times) for name, times in traced.unsupported_ops().items()}
    except Exception as error:  # a tracer runs the model's own code: anything may be raised
        return FvcoreCount(None, {}, f"fvcore could not trace it: {_cause(error)}")
    return FvcoreCount(int(sum(n for name, n in counted.items() if name in _MACS)), skipped)


def _cause(error: Exception) -> str:
    """One line, without the location in torch's sources that its assertions begin with."""
    line = str(error).strip().split("\n")[0]
    message = re.sub(
        r'^\d* ?INTERNAL ASSERT FAILED at "[^"]*":\d+, please report[^.]*\. ', "", line
    )
    return f"{type(error).__name__}: {message.rstrip(' ,')}"


@contextmanager
def _hooks_restored(model: nn.Module) -> Iterator[None]:
    """Remove the forward hooks that were added inside.

    fvcore leaves its own behind when tracing fails, and every later call would run and time them.
    """
    hooks = [d for m in model.modules() for d in (m._forward_pre_hooks, m._forward_hooks)]
    before = [set(each) for each in hooks]
    try:
        yield
    finally:
        for each, known in zip(hooks, before, strict=True):
            for added in set(each) - known:
                del each[added]


# The tracer accepts tensors only, so absent fields of a batch are left out.
_FIELDS = ("inputs", "targets", "mask", "decoder_inputs")


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    given = (getattr(batch, name) for name in _FIELDS)
    return tuple(tensor for tensor in given if tensor is not None)


class _Traceable(nn.Module):
    """The model with the signature that tracing needs: tensors in, logits out."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.names = [name for name in _FIELDS if getattr(batch, name) is not None]

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(Batch(**dict(zip(self.names, tensors, strict=True)))).logits
