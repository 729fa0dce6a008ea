"""FLOPs as torch's profiler sees them: from the shapes of every op that ran, in any thread.

An op is recorded wherever it is called from: inside a fused kernel, an op of a plugin, C++ code,
or with dispatch modes switched off. Its FLOPs are those of its operands' shapes (and, for
convolutions, strides and paddings), which owes nothing to the ledger.

Ops call one another, so each product counts once: a product inside no other, a convolution by its
outermost call. Those with a sparse operand are left out, because shapes do not show what is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from bench.meters.guard import refuse_if_dispatch_watched

Shapes = Sequence[Sequence[int]]  # of an op's arguments; [] for one that is no tensor


class ProfilerCount(NamedTuple):
    """FLOPs (2 x MAC) by op, of dense operands; and how many products had a sparse one."""

    by_op: dict[str, int]
    num_sparse: int


def _product(left: int, right: int) -> Callable[[Shapes], int]:
    """Of the arguments number `left` [..., M, K] and `right` [..., K, N] or [K]."""
    return lambda shapes: 2 * prod(shapes[left]) * (shapes[right][-1] if shapes[right][1:] else 1)


def _rows(shapes: Shapes) -> int:
    """Rows [..., K] times weight [N, K]."""
    return 2 * prod(shapes[0]) * shapes[1][0]


def _outer(shapes: Shapes) -> int:
    return 2 * prod(shapes[1]) * prod(shapes[2])


def _attention(shapes: Shapes) -> int:
    """query [B, H, S, E], key [B, H, L, E], value [B, H, L, V]."""
    query, key, value = shapes[:3]
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent_layer(shapes: Shapes) -> int:
    """Input [T, B, I], weights of input and state."""
    return 2 * prod(shapes[0][:-1]) * (prod(shapes[1]) + prod(shapes[2]))


# By the profiler's name of the op.
PRODUCTS: Mapping[str, Callable[[Shapes], int]] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::_int_mm", "aten::_scaled_mm"), _product(0, 1)),
    **dict.fromkeys(("aten::mv", "aten::dot", "aten::vdot"), _product(0, 1)),
    **dict.fromkeys(
        ("aten::addmm", "aten::addmm_", "aten::_addmm_activation", "aten::baddbmm"), _product(1, 2)
    ),
    **dict.fromkeys(("aten::baddbmm_", "aten::addmv", "aten::addmv_"), _product(1, 2)),
    **dict.fromkeys(("aten::addr", "aten::addr_"), _outer),
    "aten::mkldnn_linear": _rows,
    "aten::mkldnn_rnn_layer": _recurrent_layer,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
}
CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "aten::mkldnn_convolution")
# Every product with a sparse operand reads one of these of it.
_STORED = frozenset(
    f"aten::{name}" for name in ("_nnz", "_indices", "_values", "crow_indices", "ccol_indices")
)


def run_profiler(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> ProfilerCount:
    """FLOPs of one call in all its threads.

    Raises MeterStateError under a dispatch mode or another profiler.
    """
    refuse_if_dispatch_watched("profiler FLOPs")
    # By default only the thread that starts the profile is recorded.
    all_threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(
        activities=[ProfilerActivity.CPU],
        record_shapes=True,
        experimental_config=all_threads,
        acc_events=True,  # one cycle: nothing to clear, and no warning about it
    ) as profiler:
        fn(*args, **kwargs)
    return count_events(profiler.events())


def count_events(events: Iterable[Any]) -> ProfilerCount:
    """FLOPs of the ops of a profile, each product and each convolution once."""
    found, sparse = _found(events)
    by_op = Counter[str]()
    for event in found:
        if id(event) not in sparse:
            formula = PRODUCTS.get(event.name)
            by_op[event.name] += formula(event.input_shapes) if formula else _convolution(event)
    num_sparse = sum(id(event) in sparse for event in found)
    return ProfilerCount({op: flops for op, flops in by_op.items() if flops}, num_sparse)


def _found(events: Iterable[Any]) -> tuple[list[Any], set[int]]:
    """The events that count, and the ids of those among all that read a sparse operand."""
    found: list[Any] = []
    # Events come in order of time: whether a product contains another shows only later.
    wrappers: set[int] = set()
    sparse: set[int] = set()
    for event in events:
        around = list(_around(event))
        is_inside = any(each.name in CONVOLUTIONS for each in around)
        if event.name in CONVOLUTIONS and not is_inside:
            found.append(event)
        elif event.name in PRODUCTS and not is_inside:
            wrappers.update(id(each) for each in around if each.name in PRODUCTS)
            found.append(event)
        elif event.name in _STORED:
            sparse.update(id(each) for each in around)
    return [event for event in found if id(event) not in wrappers], sparse


def _around(event: Any) -> Iterator[Any]:
    while (event := event.cpu_parent) is not None:
        yield event


def _convolution(event: Any) -> int:
    """Each output element sums one kernel; transposed: each input element scatters one.

    Shapes are input [N, C, *] and weight [out, in / groups, *kernel]. Arguments after the bias:
    stride, padding, dilation, and (but for mkldnn's, which has the first two the other way round)
    whether it is transposed.
    """
    inputs, weight = event.input_shapes[:2]
    first, second, dilation, transposed = event.concrete_inputs[3:7]
    if first is None or second is None:
        return 0  # settings that are not numbers are not recorded
    if event.name == "aten::mkldnn_convolution":
        first, second, transposed = second, first, False
    places = inputs[2:]
    if not transposed:
        sizes = zip(places, weight[2:], *_spread(len(places), first, second, dilation), strict=True)
        places = [
            (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
            for size, kernel, step, pad, gap in sizes
        ]
    return 2 * inputs[0] * prod(places) * prod(weight)


def _spread(num: int, *settings: Any) -> list[list[int]]:
    """One number for all dimensions, or a list of them, as a list."""
    lists = [value if isinstance(value, (list, tuple)) else [value] for value in settings]
    return [list(value) * num if len(value) == 1 else list(value) for value in lists]
