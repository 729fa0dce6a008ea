"""Which line to look at: where a gate announces its decision, where a method raised an error."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

from bench import routing
from bench.check.candidate import Candidate
from bench.routing import Decision

HARNESS = str(Path(routing.__file__).parent) + os.sep


class _Sites(list[Decision]):
    """A list of decisions that notes from where each gate announced them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, str] = {}

    def append(self, decision: Decision) -> None:
        super().append(decision)
        # The nearest frame outside bench.routing is the method's call of decide.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(HARNESS):
            frame = frame.f_back
        if frame is not None:  # the first call's line: later ones come from the same place
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            self.lines.setdefault(decision.name, f"{line}, where gate {decision.name!r} decides")


def gate_line(candidate: Candidate, gate: str | None) -> str:
    """Where `gate` (None: the first one) calls `routing.decide`; without gates, the method."""
    sites = _Sites()
    try:
        with torch.no_grad(), routing.observe() as seen:
            seen.decisions = sites  # decisions are appended to whatever list is there
            candidate.model.eval()(candidate.tiny.batch(2))
    except Exception:  # the finding to report may be that very error
        return class_line(candidate.cls)
    first = next(iter(sites.lines), "")
    return sites.lines.get(gate or first) or class_line(candidate.cls)


def class_line(cls: type) -> str:
    """File, line and name of a class."""
    try:
        return f"{_source(cls)}:{inspect.getsourcelines(cls)[1]}, {cls.__name__}"
    except (OSError, TypeError):  # made at run time
        return f"{cls.__module__}.{cls.__qualname__}"


def error_line(error: BaseException, cls: type) -> str:
    """The innermost line that `error` passed in the package of the method `cls`."""
    return _innermost(traceback.extract_tb(error.__traceback__), cls)


def current_line(cls: type) -> str:
    """The innermost line of the package of the method `cls` that is being executed."""
    return _innermost(traceback.extract_stack(), cls)


def _innermost(frames: traceback.StackSummary, cls: type) -> str:
    home = str(Path(_source(cls)).parent) + os.sep
    # The method's whole package: an error deep in a helper file is better named there.
    own = [frame for frame in frames if frame.filename.startswith(home)]
    return f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}" if own else class_line(cls)


def _source(cls: type) -> str:
    return inspect.getsourcefile(cls) or ""
