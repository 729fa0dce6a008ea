"""Two independent checks of the ledger's count: torch's profiler, and fvcore on one trace.

    profiler  sees inside fused CPU kernels (multi-head fast path, grouped_mm), custom ops and other
              threads; blind to fused attention, mv, dot, recurrent layers, convolutions other
              than conv2d, _addmm_activation
    fvcore    the theoretical column: MACs on the path of one traced input; counts nothing where it
              has no handler, and lists those ops

Neither is ever the headline. Where they differ from the ledger, one of the two is wrong.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.meters.guard import refuse_if_dispatch_watched
from bench.types import Batch

# The profiler also counts one FLOP per element of add and mul; those are no MACs.
_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})
_CONVOLUTION = "aten::conv2d"
# Ops that the ledger counts and the profiler does not, not even inside them.
_BLIND = frozenset(
    {
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::mkldnn_rnn_layer",
        "aten::_addmm_activation",
        *(f"aten::{name}" for name in ("mv", "addmv", "dot", "vdot", "addr", "addbmm", "conv_tbc")),
    }
)
# fvcore counts normalisation and resampling in the same column, per element: no MACs either.
_MACS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm"})


class ProfilerCount(NamedTuple):
    """FLOPs (2 x MAC) by op, as the profiler counts them.

    With `has_sparse` they are unusable: sparse operands count as if they were dense, and twice.
    """

    by_op: dict[str, int]
    has_sparse: bool


def profiler_flops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, int]:
    """FLOPs (2 x MAC) of one call by op, as torch's profiler counts them on the CPU.

    Raises MeterStateError under a dispatch mode or another profiler.
    """
    return run_profiler(fn, *args, **kwargs).by_op


def run_profiler(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> ProfilerCount:
    """FLOPs of one call in all its threads, and whether the call had sparse operands.

    A product that consists of other products, as under `torch.vmap`, counts as those. Raises
    MeterStateError under a dispatch mode or another profiler.
    """
    refuse_if_dispatch_watched("profiler FLOPs")
    # By default only the thread that starts the profile is recorded.
    all_threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(
        activities=[ProfilerActivity.CPU],
        record_shapes=True,
        with_flops=True,
        experimental_config=all_threads,
        acc_events=True,  # one cycle: nothing to clear, and no warning about it
    ) as profiler:
        fn(*args, **kwargs)
    events = profiler.events()
    by_op = Counter[str]()
    for event in _innermost(events):
        by_op[event.name] += event.flops
    # Every product with a sparse operand queries its number of stored elements.
    return ProfilerCount(dict(by_op), any(event.name == "aten::_nnz" for event in events))


def _innermost(events: Iterable[Any]) -> list[Any]:
    """Outermost convolutions, and the products inside none that contain no other product.

    Under autocast a convolution calls itself again with cast operands, and both carry its FLOPs.
    """
    found: list[Any] = []
    # Events come in order of time: whether a product contains another shows only later.
    wrappers: set[int] = set()
    for event in events:
        if event.name == _CONVOLUTION:
            if all(each.name != _CONVOLUTION for each in _around(event)):
                found.append(event)
        elif event.name in _PRODUCTS:
            around = list(_around(event))
            wrappers.update(id(each) for each in around if each.name in _PRODUCTS)
            if all(each.name != _CONVOLUTION for each in around):
                found.append(event)
    return [event for event in found if id(event) not in wrappers]


def _around(event: Any) -> Iterator[Any]:
    while (event := event.cpu_parent) is not None:
        yield event


def profiler_excess(ledger: Mapping[str, int], profiler: ProfilerCount) -> int:
    """FLOPs that the profiler counted beyond the ledger's, both by op; 0 with sparse operands.

    An excess is work hidden from the ledger: in a thread that Python did not start, or with
    dispatch modes switched off. Convolutions and products are compared separately, and ops that
    the profiler does not count are left out: an excess of one kind must not be covered by another.
    """
    if profiler.has_sparse:
        return 0
    counted = {op: flops for op, flops in ledger.items() if op not in _BLIND}
    convolutions = sum(flops for op, flops in counted.items() if "convolution" in op)
    products = sum(counted.values()) - convolutions
    profiler_convolutions = profiler.by_op.get(_CONVOLUTION, 0)
    profiler_products = sum(profiler.by_op.values()) - profiler_convolutions
    return max(0, profiler_convolutions - convolutions) + max(0, profiler_products - products)


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
