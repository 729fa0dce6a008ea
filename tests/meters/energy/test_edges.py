"""Edges of the counter, on a quiet host and on one that is too busy to poll."""

from __future__ import annotations

import pytest

from bench.meters.energy.edges import (
    Edge,
    counter_updates,
    longest_unchanged_s,
    period_s,
    wait_for_edge,
    wait_for_sharp_edge,
)
from bench.meters.energy.polling import Sample
from bench.meters.energy.refusals import CounterReset, CounterStuck
from tests.fakes.nvml import FakeGpu


def edge(time_s: float, width_s: float = 0.001) -> Edge:
    return Edge(0, time_s - width_s / 2, time_s + width_s / 2)


def test_an_edge_is_located_to_the_distance_of_two_reads():
    """Updates every 100 ms, a read takes 1 ms: the update lies between two of them."""
    gpu = FakeGpu(phase_s=0.03)
    rig = gpu.rig()
    found = wait_for_edge(rig.board, gpu.clock, 1.0)
    truth_s = (found.time_s - 1000 - 0.03) % 0.1
    assert min(truth_s, 0.1 - truth_s) <= 0.002
    assert found.width_s <= 0.003


def test_a_read_that_is_descheduled_after_its_value_hides_no_update():
    """A read returns 40 ms after its value: an update in between lies within the edge found."""
    gpu = FakeGpu(latency_s=0.0)
    rig = gpu.rig()
    read, delays = rig.board.energy_mj, iter([0.0] * 95 + [0.04] + [0.0] * 1000)

    def slow_read() -> int:
        value_mj = read()
        gpu.clock.sleep(0.001 + next(delays))
        return value_mj

    rig.board.energy_mj = slow_read  # type: ignore[method-assign]
    found = wait_for_edge(rig.board, gpu.clock, 1.0)
    assert found.before_s <= 1000.1 <= found.after_s
    assert found.width_s > 0.04


def test_a_wide_edge_is_followed_by_a_sharp_one():
    """The first update falls into a sleep of 90 ms; the next is located to a few ms."""
    gpu = FakeGpu()
    rig = gpu.rig()
    naps = iter([0.0, 0.09, *[0.0] * 1000])
    found = wait_for_sharp_edge(rig.board, gpu.clock, 0.1, lambda: gpu.clock.sleep(next(naps)))
    assert found.width_s <= 0.01


def test_without_a_sharp_edge_the_sharpest_counts():
    """Reads 40 ms apart never locate an update to 15 of 100 ms: five tries, then the best."""
    gpu = FakeGpu()
    rig = gpu.rig()
    found = wait_for_sharp_edge(rig.board, gpu.clock, 0.1, lambda: gpu.clock.sleep(0.04))
    assert 0.03 < found.width_s < 0.06
    assert gpu.clock.now < 1001


def test_a_long_sleep_is_not_a_stuck_counter():
    """After a pause of ten periods the next read shows a new value: an edge, no exception."""
    gpu = FakeGpu()
    naps = iter([1.0, *[0.0] * 1000])
    wait_for_edge(gpu.rig().board, gpu.clock, 0.5, lambda: gpu.clock.sleep(next(naps)))
    stuck = FakeGpu(stuck_at_s=1000)
    with pytest.raises(CounterStuck):
        wait_for_edge(stuck.rig().board, stuck.clock, 0.5)


def test_the_period_comes_from_sharp_neighbours():
    """Updates every 10 ms; reads that missed two of them, or came late, do not count."""
    sharp = [edge(0.01 * k) for k in range(5)]
    late = [edge(0.0675, 0.025), edge(0.085, 0.01)]
    more = [edge(0.01 * k) for k in range(10, 15)]
    assert period_s([*sharp, *late, *more]) == pytest.approx(0.01)


def test_without_sharp_neighbours_all_count_but_gaps():
    """Reads 8 ms apart at 10 ms: rough, and a gap of three periods is left out."""
    rough = [edge(t, 0.008) for t in (0.0, 0.01, 0.02, 0.05, 0.06)]
    assert period_s(rough) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="two updates"):
        period_s(rough[:1])


def test_updates_and_unchanged_stretches_of_a_trace():
    """A stretch is from the first to the last sample of one value; a decrease is a reset."""
    samples = [Sample(t, mj, 0.0) for t, mj in ((0, 5), (1, 5), (2, 7), (9, 8), (10, 8))]
    assert [(each.before_s, each.after_s) for each in counter_updates(samples)] == [(1, 2), (2, 9)]
    assert longest_unchanged_s(samples) == 1  # no sample between 2 and 9: polling gaps do not count
    for function in (counter_updates, longest_unchanged_s):
        with pytest.raises(CounterReset):
            function([*samples, Sample(11, 3, 0.0)])
