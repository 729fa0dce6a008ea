"""Time by region: the share of router, dispatch, expert and combine in a pass.

A pass of its own, never the timed one: the clock is read (and a GPU synchronised) at every border
of a `bench.routing.region`, which takes time itself and removes the overlap of host and device.
Time inside nested regions counts for the innermost, so the shares sum to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import routing
from bench.meters.conditions import evaluation_mode, gc_disabled
from bench.meters.guard import refuse_if_watched
from bench.meters.time.stopwatch import Stopwatch, device_of, stopwatch_for


def time_by_region(
    model: Callable[[Any], object],
    batches: Sequence[Any],
    *,
    passes: int = 3,
    min_s: float = 0.0,
    stopwatch: Stopwatch | None = None,
) -> dict[str, float]:
    """Seconds per region of `passes` passes over `batches`, after a dry one.

    As many more as it takes to spend `min_s` seconds: a short pass alone is noise.
    Time outside every region is `backbone`'s; a region that was never entered is absent.
    Raises MeterStateError under a dispatch mode or profiler.
    """
    refuse_if_watched("time by region")
    watch = stopwatch or stopwatch_for(device_of(batches[0]))
    spent: dict[str, float] = {}
    with evaluation_mode(model), gc_disabled():
        for batch in batches:
            model(batch)
        start_s = last_s = watch.now_s()
        current, num_passes = routing.current_region(), 0

        def at_border(entered: str) -> None:
            nonlocal last_s, current
            now_s = watch.now_s()
            spent[current] = spent.get(current, 0.0) + now_s - last_s
            # Read again, so that the bookkeeping above belongs to no region.
            last_s, current = watch.now_s(), entered

        with routing.watch_regions(at_border):
            while num_passes < passes or last_s - start_s < min_s:
                for batch in batches:
                    model(batch)
                at_border(current)
                num_passes += 1
    return spent


def time_shares(seconds: dict[str, float]) -> dict[str, float]:
    """Each region's share of the sum of `seconds`."""
    total = sum(seconds.values())
    return {name: value / total for name, value in seconds.items()} if total else {}
