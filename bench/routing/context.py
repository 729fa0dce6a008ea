"""What is open in this thread: regions, an observation, whoever chooses for the gates.

One object per thread: two threads that measure two models must not see each other's decisions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bench.routing.decisions import Decision, Observation


@dataclass
class Context(threading.local):
    """The state of one thread."""

    regions: list[str] = field(default_factory=list)
    observation: Observation | None = None
    choose: Callable[[Decision], Decision | Tensor] | None = None
    at_border: Callable[[str], None] | None = None


here = Context()
