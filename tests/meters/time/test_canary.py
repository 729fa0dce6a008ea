"""The canary: the same work every time, and more of it takes longer."""

from __future__ import annotations

from bench.meters.flops.counter import count_samples
from bench.meters.time.canary import SIZE, canary, measure_canary_s


def test_the_work_is_fixed() -> None:
    """One pass executes two products of 384 x 384: always 4 x 384^3 FLOPs."""
    run = canary("cpu")
    counted = count_samples(run, [1, 2])
    once = 2 * 2 * SIZE**3  # two products of 2 n^3; copies and sums are no products
    assert counted.per_batch == (once, 2 * once)


def test_a_pass_takes_time() -> None:
    """The canary's time is a positive number of seconds, far below one."""
    assert 0 < measure_canary_s("cpu") < 5
