"""Elementwise work beyond a dense model's: products hide there, as multiplication and sum."""

from __future__ import annotations

from bench.routing import SHORTFALL

MORE = 4  # times the dense model's elements: gating, gathering and combining write up to three


def may_hide_products(
    num_elems: float, num_dense_elems: float, dense_flops: float, flops: float
) -> bool:
    """Whether so many elements may be multiplications of uncounted products.

    A product that is multiplied and summed by hand writes one element per multiply-accumulate, and
    would be two FLOPs. What goes beyond `MORE` times the dense model's elements must be worth less
    than what a saving may fall short of. Whoever executes more counted `flops` than the dense model
    has activations of more of them.
    """
    allowed = MORE * num_dense_elems * max(1.0, flops / dense_flops)
    return 2 * (num_elems - allowed) > SHORTFALL * dense_flops
