"""Causal attention by torch's math backend: which of its products the mask makes half empty.

Where no fused kernel applies (dropout, values wider than queries, the backend asked for) torch
computes `scaled_dot_product_attention` from plain ops, in one uninterrupted call:

    mul (query)   [ones, tril, where: the causal mask]   mul (key)   bmm   add   _safe_softmax   bmm

Nothing else calls `_safe_softmax`. A mask that the caller made comes before both scalings, torch's
own between them: that separates `is_causal=True` from a triangular `attn_mask`, which skips
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.meters.flops.formulas.attention import causal_pairs

_PRODUCTS = ("aten::bmm", "aten::baddbmm", "aten::mm")


class MathAttention:
    """Follows the ops of one thread."""

    def __init__(self) -> None:
        self._mask: Sequence[int] | None = None  # [queries, keys] of the last triangular mask
        self._num_scalings = 0  # since that mask
        self._last_product = 0  # FLOPs
        self._causal: Sequence[int] | None = None  # of probabilities that wait for their product

    def masked_flops(self, name: str, args: Sequence[Any], flops: int) -> int:
        """FLOPs on masked pairs of this op and of earlier ones that it shows to be causal."""
        if name == "aten::tril":
            self._mask, self._num_scalings = tuple(args[0].shape), 0
        elif name == "aten::mul":
            self._num_scalings += 1
        elif name == "aten::_safe_softmax":
            return self._masked_scores(args[0].shape)
        elif name in _PRODUCTS:
            self._last_product = flops
            causal, self._causal = self._causal, None
            return _masked(flops, causal) if causal is not None else 0
        return 0

    def _masked_scores(self, shape: Sequence[int]) -> int:
        """Of the product whose scores [..., queries, keys] are normalised, if they are causal."""
        pairs, mask, self._mask = tuple(shape[-2:]), self._mask, None
        if mask != pairs or self._num_scalings != 1:
            return 0
        self._causal = pairs  # the next product is that with the values
        return _masked(self._last_product, pairs)


def _masked(flops: int, pairs: Sequence[int]) -> int:
    """Exact: a product's FLOPs are a multiple of its query-key pairs."""
    num_queries, num_keys = pairs
    num_pairs = num_queries * num_keys
    if not num_pairs:
        return 0
    return flops // num_pairs * (num_pairs - causal_pairs(num_queries, num_keys))
