"""The parts of a pass, on numbers worked out by hand."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from bench.statistics.time_parts import Shares, TimeParts, time_parts


def test_the_parts_are_those_worked_out_by_hand() -> None:
    """Dense: 100 ms, 60 of them products. The method: 80 ms for half of the FLOPs.

    20 of its 80 ms are routing (a quarter), with a tenth of its FLOPs, 0.05 of dense's; the other
    products take 36 ms alone (0.45).

    ideal     100 / 2 = 50 ms
    routing   20 ms - 5 ms that 0.05 of dense's FLOPs take at dense's speed = 15 ms
    products  36 ms - 60 x 0.45 = 9 ms
    rest      80 - 50 - 15 - 9 = 6 ms
    """
    parts = time_parts(100 / 80, 2.0, Shares(0.25, 0.1, 0.45), dense_products=0.6)
    assert astuple(parts) == pytest.approx((0.5, 0.15, 0.09, 0.06))
    assert parts.total == pytest.approx(0.8)


def test_what_shrinks_as_its_flops_do_leaves_nothing() -> None:
    """A third of the FLOPs in a third of the time, products and all else alike."""
    parts = time_parts(3.0, 3.0, Shares(0.0, 0.0, 0.7), dense_products=0.7)
    assert astuple(parts) == pytest.approx((1 / 3, 0.0, 0.0, 0.0))


def test_products_that_are_faster_than_dense_ones_are_negative() -> None:
    """Half of the FLOPs in 0.2 of dense's pass, where dense takes 0.3 for them."""
    parts = time_parts(2.5, 2.0, Shares(0.0, 0.0, 0.5), dense_products=0.6)
    assert parts.products == pytest.approx(0.5 * 0.4 - 0.6 * 0.5)
    assert parts.total == pytest.approx(0.4)


def test_a_wait_in_routing_is_routing_alone() -> None:
    """20 ms more in 80 ms: every share of the pass falls to 0.8 of what it was."""
    before = time_parts(100 / 80, 2.0, Shares(0.25, 0.1, 0.45), dense_products=0.6)
    after = time_parts(1.0, 2.0, Shares(40 / 100, 0.1, 36 / 100), dense_products=0.6)
    assert after.routing - before.routing == pytest.approx(0.2)
    for name in ("ideal", "products", "rest"):
        assert getattr(after, name) == pytest.approx(getattr(before, name))


@pytest.mark.parametrize(
    ("rest", "explained"), [(0.14, True), (0.16, False), (-0.14, True), (-0.16, False)]
)
def test_at_most_15_percent_of_the_pass_may_be_left_over(rest: float, explained: bool) -> None:
    """Of a pass as long as dense's, in either direction."""
    assert TimeParts(1.0 - rest, 0.0, 0.0, rest).is_explained is explained


@pytest.mark.parametrize(("speedup", "tau"), [(0.0, 2.0), (2.0, 0.0)])
def test_ratios_of_nothing_are_refused(speedup: float, tau: float) -> None:
    """A pass takes some time, and some FLOPs."""
    with pytest.raises(ValueError, match="above 0"):
        time_parts(speedup, tau, Shares(0.0, 0.0, 1.0), 1.0)
