"""Control flow as data decides it: torch's higher-order operators interpreted, compilation off.

torch.cond and while_loop trace or compile their branches; under a dispatch mode that loses the
gradients of what the branches close over (the weights, usually). Run as the Python that they stand
for, only the taken branch executes, and gradients are those of eager code.
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


def _cond(pred: Any, true_fn: Callable, false_fn: Callable, operands: Iterable = ()) -> Any:
    return (true_fn if bool(pred) else false_fn)(*operands)


def _while_loop(cond_fn: Callable, body_fn: Callable, carried: Iterable, extra: Iterable) -> tuple:
    values = tuple(carried)
    while bool(cond_fn(*values, *extra)):
        values = tuple(body_fn(*values, *extra))
    return values


INTERPRETERS: Mapping[str, Callable] = {"cond": _cond, "while_loop": _while_loop}

_patching = threading.RLock()
_num_inside = 0
_originals: dict[HigherOrderOperator, Callable] = {}


@contextmanager
def interpreted(watched: Callable[[], bool]) -> Iterator[None]:
    """Inside, threads for which `watched()` holds run control flow and compiled code eagerly."""
    with ExitStack() as stack:
        _patch(+1, watched)
        stack.callback(_patch, -1, watched)
        # A dispatch mode makes compiled callables run eagerly anyway; with fullgraph=True they
        # would raise instead.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _patch(change: int, watched: Callable[[], bool]) -> None:
    """The first in replaces the operators' autograd kernels, the last out puts them back."""
    global _num_inside
    with _patching:
        _num_inside += change
        for op in (cond_op, while_loop_op):
            traced = _originals.setdefault(op, op.py_kernels[DispatchKey.Autograd])
            eager = partial(_eager_or_traced, INTERPRETERS[op.name()], traced, watched)
            op.py_kernels[DispatchKey.Autograd] = eager if _num_inside else traced
            op._dispatch_cache.clear()


def _eager_or_traced(
    eager: Callable, traced: Callable, watched: Callable[[], bool], *args: Any
) -> Any:
    return (eager if watched() else traced)(*args)
