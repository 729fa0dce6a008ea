"""States in which no meter may run: a probe inside a timed region would be measured itself."""

from __future__ import annotations

import sys

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bench.meters.flops.threads import is_counting


class MeterStateError(RuntimeError):
    """A meter was started where its reading would be wrong; the message names the cause."""


def refuse_if_watched(quantity: str) -> None:
    """Raise MeterStateError while a dispatch mode (a FLOP counter is one) or a profiler is active.

    `quantity` names what was to be measured. Python's own trace and profile hooks count too.
    """
    refuse_if_dispatch_watched(quantity)
    # Dispatch modes are per thread, but a count in another thread shares our cores and our GIL.
    if is_counting():
        raise MeterStateError(f"{quantity}: a FLOP count is in progress in another thread")
    if sys.getprofile() is not None or sys.gettrace() is not None:
        raise MeterStateError(f"{quantity}: a Python profiler, tracer or debugger is active")


def refuse_if_dispatch_watched(quantity: str) -> None:
    """Raise MeterStateError while something intercepts torch's ops in this thread.

    Python tracers are allowed here: they slow a count down, but change no number.
    """
    modes = _get_current_dispatch_mode_stack()
    if modes:
        raise MeterStateError(f"{quantity}: the mode {type(modes[-1]).__name__} is active")
    # It adds microseconds to every op, and a second profile cannot run beside it.
    if torch._C._autograd._profiler_enabled():
        raise MeterStateError(f"{quantity}: a torch profiler is active")
