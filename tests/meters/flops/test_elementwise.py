"""Elementwise work beyond which products may be hidden in it."""

from __future__ import annotations

from bench.meters.flops.elementwise import may_hide_products


def test_a_product_written_by_hand_is_found() -> None:
    """A dense model of 1e6 FLOPs and 1e3 elements; half of its products by hand write 250,000."""
    assert may_hide_products(1e3 + 250_000, 1e3, 1e6, 0.5e6)


def test_gating_and_moving_rows_is_no_product() -> None:
    """Four times the dense model's elements are allowed, plus 2.5 % of its FLOPs."""
    assert not may_hide_products(4e3 + 24_000, 1e3, 1e6, 0.5e6)
    assert may_hide_products(4e3 + 26_000, 1e3, 1e6, 0.5e6)


def test_more_counted_work_has_more_activations() -> None:
    """All of eight experts: eight times the products, all counted, and their activations."""
    assert not may_hide_products(30e3 + 26_000, 1e3, 1e6, 8e6)
    assert may_hide_products(32e3 + 26_000, 1e3, 1e6, 8e6)
