"""Elementwise work beyond a dense model's, where products written by hand would hide."""

from __future__ import annotations

from bench.routing import SHORTFALL

MORE = 4  # times the dense model's elements: gating, gathering and combining write up to three


def may_hide_products(
    num_elems: float, num_dense_elems: float, dense_flops: float, flops: float
) -> bool:
    """Whether so many elements may be multiplications of uncounted products.

    A product that is multiplied and summed by hand writes one element per multiply-accumulate,
    which would be two FLOPs. The elements beyond `MORE` times the dense model's must be worth less
    than the tolerated shortfall of a saving.
    """
    # A model that executes more counted FLOPs than the dense one has more activations as well.
    allowed = MORE * num_dense_elems * max(1.0, flops / dense_flops)
    return 2 * (num_elems - allowed) > SHORTFALL * dense_flops
