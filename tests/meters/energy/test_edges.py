"""When the counter moves, on a quiet host and on one that does not let us look."""

from __future__ import annotations

import pytest

from bench.meters.energy.edges import (
    Edge,
    longest_silence_s,
    moves,
    period_s,
    wait_for_edge,
    wait_for_sharp_edge,
)
from bench.meters.energy.polling import Sample
from bench.meters.energy.refusals import CounterReset, CounterStuck
from tests.fakes.nvml import FakeGpu


def edge(time_s: float, width_s: float = 0.001) -> Edge:
    return Edge(0, time_s - width_s / 2, time_s + width_s / 2)


def test_an_edge_is_found_to_the_width_of_two_looks():
    """Updates every 100 ms, a look takes 1 ms: the moment lies between the two."""
    gpu = FakeGpu(phase_s=0.03)
    rig = gpu.rig()
    found = wait_for_edge(rig.board, gpu.clock, 1.0)
    truth_s = (found.time_s - 1000 - 0.03) % 0.1
    assert min(truth_s, 0.1 - truth_s) <= 0.002
    assert found.width_s <= 0.003


def test_a_starved_look_is_followed_by_sharper_ones():
    """The first update passes while the process sleeps for 90 ms; the next is seen to 1 ms."""
    gpu = FakeGpu()
    rig = gpu.rig()
    naps = iter([0.0, 0.09, *[0.0] * 1000])
    found = wait_for_sharp_edge(rig.board, gpu.clock, 0.1, lambda: gpu.clock.sleep(next(naps)))
    assert found.width_s <= 0.01


def test_where_no_look_is_sharp_the_sharpest_counts():
    """Looks 40 ms apart never see an update to a tenth of 100 ms: five tries, then the best."""
    gpu = FakeGpu()
    rig = gpu.rig()
    found = wait_for_sharp_edge(rig.board, gpu.clock, 0.1, lambda: gpu.clock.sleep(0.04))
    assert 0.03 < found.width_s < 0.06
    assert gpu.clock.now < 1001


def test_a_long_sleep_is_not_a_stuck_counter():
    """After a pause of ten periods the next look shows a new value: an edge, no refusal."""
    gpu = FakeGpu()
    naps = iter([1.0, *[0.0] * 1000])
    wait_for_edge(gpu.rig().board, gpu.clock, 0.5, lambda: gpu.clock.sleep(next(naps)))
    stuck = FakeGpu(stuck_at_s=1000)
    with pytest.raises(CounterStuck):
        wait_for_edge(stuck.rig().board, stuck.clock, 0.5)


def test_the_period_comes_from_neighbours_that_were_seen_sharply():
    """Updates every 10 ms; looks that missed two of them, or came late, do not count."""
    sharp = [edge(0.01 * k) for k in range(5)]
    late = [edge(0.0675, 0.025), edge(0.085, 0.01)]
    more = [edge(0.01 * k) for k in range(10, 15)]
    assert period_s([*sharp, *late, *more]) == pytest.approx(0.01)


def test_without_sharp_neighbours_all_count_but_gaps():
    """Looks 8 ms apart at 10 ms: rough, and a gap of three periods is left out."""
    rough = [edge(t, 0.008) for t in (0.0, 0.01, 0.02, 0.05, 0.06)]
    assert period_s(rough) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="two updates"):
        period_s(rough[:1])


def test_a_trace_shows_its_moves_and_silences():
    """Silence is from the first to the last look at one value; a step back is a reset."""
    samples = [Sample(t, mj, 0.0) for t, mj in ((0, 5), (1, 5), (2, 7), (9, 8), (10, 8))]
    assert [(each.before_s, each.after_s) for each in moves(samples)] == [(1, 2), (2, 9)]
    assert longest_silence_s(samples) == 1  # nobody looked between 2 and 9
    for function in (moves, longest_silence_s):
        with pytest.raises(CounterReset):
            function([*samples, Sample(11, 3, 0.0)])
