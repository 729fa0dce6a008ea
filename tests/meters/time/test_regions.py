"""Time by region on a simulated clock, in a pass of its own."""

from __future__ import annotations

import pytest

from bench import routing
from bench.meters.guard import MeterStateError
from bench.meters.time.paired import compare
from bench.meters.time.regions import time_by_region, time_shares


def moe(clock):
    """Backbone 1 + 2 ms, router 3 ms, dispatch 4 ms with 5 ms of experts nested in it."""

    def run(batch):
        clock.advance(0.001)
        with routing.region("router"):
            clock.advance(0.003)
        with routing.region("dispatch"):
            clock.advance(0.002)
            with routing.region("expert"):
                clock.advance(0.005)
            clock.advance(0.002)
        clock.advance(0.002)

    return run


def test_time_goes_to_the_innermost_region_and_sums_to_the_whole(clock):
    """Two batches, three passes: six times the milliseconds above."""
    seconds = time_by_region(moe(clock), [["a"], ["b"]], passes=3, stopwatch=clock)
    expected = {"backbone": 0.018, "router": 0.018, "dispatch": 0.024, "expert": 0.030}
    assert seconds == pytest.approx(expected)
    shares = time_shares(seconds)
    assert shares["expert"] == pytest.approx(5 / 15)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert "combine" not in shares


def test_a_dense_model_is_all_backbone(clock):
    """Without regions all time is the backbone's; without time there are no shares."""
    seconds = time_by_region(lambda batch: clock.advance(0.01), [["a"]], stopwatch=clock)
    assert time_shares(seconds) == {"backbone": 1.0}
    assert time_shares({}) == {}


def test_border_hooks_are_off_in_timed_rounds(clock):
    """A hook is called inside `watch_regions` only, and is removed after an error too."""
    entered = []
    with routing.watch_regions(entered.append):
        moe(clock)(None)
    assert entered == ["router", "backbone", "dispatch", "expert", "dispatch", "backbone"]
    with pytest.raises(RuntimeError), routing.watch_regions(entered.append):
        raise RuntimeError
    entered.clear()
    compare(moe(clock), moe(clock), [["a"]], rounds=1, warmup_s=0.0, stopwatch=clock)
    assert entered == []


def test_it_refuses_under_a_dispatch_mode(clock):
    """As every timer does."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="time by region"):
        time_by_region(moe(clock), [["a"]], stopwatch=clock)


def test_short_passes_are_repeated_until_they_took_long_enough(clock):
    """15 ms a pass: three of them are the first that took 40 ms."""
    seconds = time_by_region(moe(clock), [["a"]], passes=1, min_s=0.04, stopwatch=clock)
    assert sum(seconds.values()) == pytest.approx(3 * 0.015)
