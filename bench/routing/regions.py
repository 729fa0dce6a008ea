"""Named parts of the work, so that FLOPs and time can be attributed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.routing.context import here

REGIONS = ("backbone", "router", "dispatch", "expert", "combine", "exit_head")
GATE_REGIONS = ("router", "exit_head")  # where decisions are computed


class region:
    """Name the work inside: backbone, router, dispatch, expert, combine or exit_head.

    Raises ValueError for another name, which no table would show.
    """

    # A class, not a generator: a routed layer enters several in every call, and at batch 1 what
    # `contextmanager` takes for each is visible in the latency.
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        if self.name not in REGIONS:
            raise ValueError(f"unknown region {self.name!r}: choices: {', '.join(REGIONS)}")
        here.regions.append(self.name)
        if here.on_region is not None:  # the common case, timed passes included: nothing watches
            here.on_region(self.name)

    def __exit__(self, *error: object) -> None:
        # Also after an error, or every later operation would count for this region.
        here.regions.pop()
        if here.on_region is not None:
            here.on_region(current_region())


def current_region() -> str:
    """The innermost region of this thread; `backbone` outside any."""
    return here.regions[-1] if here.regions else "backbone"


@contextmanager
def watch_regions(on_region: Callable[[str], None]) -> Iterator[None]:
    """Call `on_region(name)` whenever this thread enters or leaves a region.

    `name` is the region that holds from there on.
    """
    before, here.on_region = here.on_region, on_region  # watchers nest: restored on leaving
    try:
        yield
    finally:
        here.on_region = before
