"""Named parts of the work, so that FLOPs and time can be attributed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.routing.context import here

REGIONS = ("backbone", "router", "dispatch", "expert", "combine", "exit_head")
GATE_REGIONS = ("router", "exit_head")  # where it is decided what runs


@contextmanager
def region(name: str) -> Iterator[None]:
    """Name the work inside: backbone, router, dispatch, expert, combine or exit_head.

    Raises ValueError for another name, which no table would show.
    """
    if name not in REGIONS:
        raise ValueError(f"unknown region {name!r}: choices: {', '.join(REGIONS)}")
    here.regions.append(name)
    _report_border()
    try:
        yield
    finally:
        here.regions.pop()
        _report_border()


def current_region() -> str:
    """The innermost region of this thread; `backbone` outside any."""
    return here.regions[-1] if here.regions else "backbone"


@contextmanager
def watch_regions(at_border: Callable[[str], None]) -> Iterator[None]:
    """Call `at_border(region)` whenever this thread enters another region, on leaving one too."""
    before, here.at_border = here.at_border, at_border
    try:
        yield
    finally:
        here.at_border = before


def _report_border() -> None:
    if here.at_border is not None:
        here.at_border(current_region())
