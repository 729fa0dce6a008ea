"""What is active in this thread: regions, an observation, an override of decisions.

One object per thread: two threads that measure two models must not see each other's decisions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bench.routing.decisions import Decision
    from bench.routing.observation import Observation


@dataclass
class Context(threading.local):
    """The state of one thread."""

    regions: list[str] = field(default_factory=list)  # innermost last
    observation: Observation | None = None
    choose: Callable[[Decision], Decision | Tensor] | None = None  # force or replay
    at_share: Callable[[Decision], Tensor] | None = None  # decides where nothing chooses
    on_region: Callable[[str], None] | None = None


# Gates read it in every call, timed passes included: keep reading it cheap.
here = Context()
