"""Multi-head attention, projections fused (Vaswani et al. 2017, Attention Is All You Need)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D / heads)) V in several heads.

    With `causal`, a token sees itself and earlier tokens only; a given mask replaces that rule.
    """

    def __init__(self, dim: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.dim, self.num_heads, self.causal = dim, num_heads, causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def initialise(self, residual_scale: float) -> None:
        """GPT-2's start: N(0, 0.02), what is added to the residual stream scaled down, no bias."""
        nn.init.normal_(self.qkv.weight, std=0.02)
        nn.init.normal_(self.out.weight, std=0.02 * residual_scale)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """Mix `x` [B, T, D]; returns [B, T, D].

        `context` [B, S, D]: where keys and values come from (default: x itself).
        `mask`: broadcastable to [B, heads, T, S]; bool, true where a query may look, or an
        additive bias. None: everywhere, or causal.
        """
        query, key, value = self._project(x, x if context is None else context)
        causal = self.causal and mask is None and context is None
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )  # [B, heads, T, D / heads]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """Queries of `x`, keys and values of `context`, each [B, heads, T or S, D / heads]."""
        if context is x:
            return self._heads(self.qkv(x), 3)
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(x, weight[: self.dim], bias[: self.dim])
        rest = F.linear(context, weight[self.dim :], bias[self.dim :])
        return *self._heads(query, 1), *self._heads(rest, 2)

    def _heads(self, joint: Tensor, num_parts: int) -> tuple[Tensor, ...]:
        """[B, T, parts * D] -> `parts` views [B, heads, T, D / heads]."""
        split = joint.view(*joint.shape[:2], num_parts, self.num_heads, -1)
        return split.permute(2, 0, 3, 1, 4).unbind(0)
