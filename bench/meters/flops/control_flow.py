"""Data-dependent control flow: torch's higher-order operators run as Python, without compilation.

torch.cond and while_loop trace or compile their branches; under a dispatch mode that loses the
gradients of what the branches close over (usually the weights). Run as the Python that they
describe, only the taken branch executes, and gradients are those of eager code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch._C import DispatchKey
from torch._higher_order_ops.cond import cond_op
from torch._higher_order_ops.while_loop import while_loop_op
from torch._ops import HigherOrderOperator


# These two take the operators' own arguments, in the operators' order.
def _cond(pred: Any, true_fn: Callable, false_fn: Callable, operands: Iterable = ()) -> Any:
    return (true_fn if bool(pred) else false_fn)(*operands)


def _while_loop(cond_fn: Callable, body_fn: Callable, carried: Iterable, extra: Iterable) -> tuple:
    values = tuple(carried)
    while bool(cond_fn(*values, *extra)):
        values = tuple(body_fn(*values, *extra))
    return values


INTERPRETERS: Mapping[str, Callable] = {"cond": _cond, "while_loop": _while_loop}

# The operators' kernels are global to the process: counts in several threads share one patch.
_patching = threading.RLock()
_num_inside = 0
_originals: dict[HigherOrderOperator, Callable] = {}


@contextmanager
def interpret_control_flow(applies: Callable[[], bool]) -> Iterator[None]:
    """Inside, threads in which `applies()` is true run control flow and compiled code eagerly."""
    with ExitStack() as stack:
        _patch(+1, applies)
        stack.callback(_patch, -1, applies)
        # A dispatch mode makes compiled callables run eagerly anyway; with fullgraph=True they
        # would raise instead.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _patch(change: int, applies: Callable[[], bool]) -> None:
    """The first entry replaces the operators' autograd kernels, the last exit restores them."""
    global _num_inside
    with _patching:
        _num_inside += change
        for op in (cond_op, while_loop_op):
            traced = _originals.setdefault(op, op.py_kernels[DispatchKey.Autograd])
            eager = partial(_eager_or_traced, INTERPRETERS[op.name()], traced, applies)
            op.py_kernels[DispatchKey.Autograd] = eager if _num_inside else traced
            op._dispatch_cache.clear()  # it holds the kernel resolved before the patch


def _eager_or_traced(
    eager: Callable, traced: Callable, applies: Callable[[], bool], *args: Any
) -> Any:
    # The patch is global, so the choice is made per call: other threads keep torch's own behaviour.
    return (eager if applies() else traced)(*args)
