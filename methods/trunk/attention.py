"""Multi-head attention with one fused projection (Vaswani et al. 2017, Attention Is All You Need).

Letters in shapes: B samples, T queries, S keys, D width, d = D / heads, N packed tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import region
from methods.trunk.cache import Past
from methods.trunk.feedforward import initialise_linear
from methods.trunk.gated_attention import AttentionGates, mix_heads, mix_weighed
from methods.trunk.positions import Rotary
from methods.trunk.selection import Selection


@dataclass
class AttentionView:
    """Intermediate results of one attention pass, filled for the method that passes it in.

    `queries` [B, heads, T, d] and `keys` [B, heads or fewer, S, d]. With `with_scores`,
    `class_scores` [B, heads, S]: the weights with which token 0 attends to all tokens, at the cost
    of one more row of scores.
    """

    with_scores: bool = False
    queries: Tensor | None = None
    keys: Tensor | None = None
    class_scores: Tensor | None = None


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D / heads)) V in several heads.

    With `causal`, a token attends to itself and earlier tokens only; a given mask replaces that
    rule. `num_kv_heads` heads of keys and values serve all queries (grouped-query attention,
    Ainslie et al. 2023; None: one each). `rotary` turns queries and keys by their positions.
    Raises ValueError for numbers that do not divide.
    """

    takes_selection = True  # `forward` accepts packed tokens
    takes_gates = True  # and gates of keys and heads

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        causal: bool = False,
        num_kv_heads: int | None = None,
        bias: bool = True,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        if num_kv_heads is not None and num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} heads cannot share {num_kv_heads} of keys and values")
        self.dim, self.num_heads, self.causal = dim, num_heads, causal
        self.num_kv_heads = num_kv_heads or num_heads
        self.grouped = self.num_kv_heads < num_heads
        self.kv_dim = dim // num_heads * self.num_kv_heads
        # One product instead of three: fewer kernel launches, and x is read once.
        self.qkv = nn.Linear(dim, dim + 2 * self.kv_dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        self.rotary = rotary

    def initialise(self, residual_scale: float) -> None:
        """GPT-2's initialisation, deviation 0.02; the output's times `residual_scale`. No bias."""
        initialise_linear(self.qkv)
        initialise_linear(self.out, residual_scale)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        context_positions: Tensor | None = None,
        past: Past | None = None,
        selection: Selection | None = None,
        view: AttentionView | None = None,
        gates: AttentionGates | None = None,
    ) -> Tensor:
        """Mix `x` [B, T, D]; returns [B, T, D].

        `context` [B, S, D]: the source of keys and values (default: x itself).
        `mask`: broadcastable to [B, heads, T, S]; bool, true where a query may attend, or an
        additive bias. None: everywhere, or causal. `positions` [B, T], `context_positions` [B, S]:
        for rotary positions (None: 0, 1, ...). `past`: earlier tokens, to all of which a new token
        attends; it stores the new ones and supplies the mask. `selection`: x is packed
        [1, N, D] and padded to [B, T] for the products alone; the result is packed again.
        `view`: filled with keys and, with `with_scores`, the class token's scores. `gates`: keys
        and heads that count, or that run, where as many keys as queries have a head of their own.
        """
        if gates is not None and gates.run is not None and not bool(gates.run.all()):
            return mix_heads(self, x, mask, gates.run, positions=positions, selection=selection)
        alone = context is None and view is None
        if selection is not None and len(selection.buckets) > 1 and alone:
            return self._mix_buckets(x, mask, selection, positions)
        query, key, value = self._project(x, x if context is None else context, selection)
        if self.rotary is not None:  # before the cache: keys are stored turned
            query = self.rotary(query, positions)
            key = self.rotary(key, positions if context is None else context_positions)
        causal = self.causal and mask is None and context is None
        if past is not None:
            key, value, mask, causal = past.extend(key, value)
        if view is not None:
            self._fill_view(view, query, key, mask)
        if gates is not None and gates.run is None:
            mixed = mix_weighed(query, key, value, mask, gates, causal=causal)
        else:
            # A flag instead of a mask where possible: kernels that skip the masked half need it.
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped
            )  # [B, heads, T, d]
        mixed = mixed.transpose(1, 2).flatten(2)  # [B, T, D]
        # Packed before the output projection, so that padding pays for attention alone.
        return self.out(mixed if selection is None else selection.pack(mixed))

    def _mix_buckets(
        self, x: Tensor, mask: Tensor | None, selection: Selection, positions: Tensor | None
    ) -> Tensor:
        """Mix packed tokens `x` [1, N, D], padding every bucket to its own longest sample."""
        joint, mixed = self.qkv(x), list[Tensor]()
        for bucket in selection.buckets:
            query, key, value = self._split(bucket.pad(joint))
            if self.rotary is not None:
                rows = slice(bucket.begin, bucket.end)
                turned = None if positions is None else positions[rows, : bucket.length]
                query, key = self.rotary(query, turned), self.rotary(key, turned)
            allowed = None if mask is None else bucket.mask(mask)
            part = F.scaled_dot_product_attention(
                *(query, key, value),
                attn_mask=allowed,
                is_causal=self.causal and mask is None,
                enable_gqa=self.grouped,
            )
            mixed.append(bucket.pack(part.transpose(1, 2).flatten(2)))
        return self.out(torch.cat(mixed)[None])

    def _fill_view(
        self, view: AttentionView, query: Tensor, key: Tensor, mask: Tensor | None
    ) -> None:
        """Fill `view`; fused attention keeps no scores, so those of token 0 are computed again."""
        view.queries, view.keys = query, key
        if not view.with_scores:
            return
        with region("router"):  # attention itself has no use for them
            view.class_scores = self._class_scores(query, key, mask)

    def _class_scores(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The weights of token 0 in attention, [B, heads, S]."""
        if self.grouped:
            key = key.repeat_interleave(self.num_heads // self.num_kv_heads, 1)  # one per query's
        scores = query[:, :, :1] @ key.transpose(2, 3) / query.shape[-1] ** 0.5  # [B, heads, 1, S]
        if mask is not None:
            first = mask[..., :1, :]  # token 0's row; of a mask for all queries it is the only one
            hidden = ~first if first.dtype == torch.bool else None
            scores = scores + first if hidden is None else scores.masked_fill(hidden, -torch.inf)
        return scores.softmax(-1)[:, :, 0]

    def remember(self, x: Tensor, past: Past, positions: Tensor | None = None) -> None:
        """Append the keys and values of `x` [B, T, D] to `past`, without querying."""
        key, value = self._project_context(x)
        if self.rotary is not None:
            key = self.rotary(key, positions)
        past.extend(key, value)

    def _project(
        self, x: Tensor, context: Tensor, selection: Selection | None
    ) -> tuple[Tensor, ...]:
        """Queries of `x`, keys and values of `context`, each [B, heads, T or S, d]."""
        if context is not x:
            query = _outputs(self.qkv, x, 0, self.dim)
            query = query if selection is None else selection.pad(query)
            return *self._split_heads(query, 1), *self._project_context(context)
        joint = self.qkv(x)
        return self._split(joint if selection is None else selection.pad(joint))

    def _split(self, joint: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of the fused product `joint` [B, T, D + 2 K]."""
        if not self.grouped:
            return self._split_heads(joint, 3)
        # Queries are wider than keys and values here: no common split.
        query, rest = joint.split([self.dim, 2 * self.kv_dim], -1)
        return *self._split_heads(query, 1), *self._split_heads(rest, 2)

    def _project_context(self, context: Tensor) -> tuple[Tensor, ...]:
        rest = _outputs(self.qkv, context, self.dim, self.dim + 2 * self.kv_dim)
        return self._split_heads(rest, 2)

    def _split_heads(self, joint: Tensor, num_parts: int) -> tuple[Tensor, ...]:
        """[B, T, parts * heads * d] -> `parts` views [B, heads, T, d]."""
        head_dim = self.dim // self.num_heads
        split = joint.view(*joint.shape[:2], num_parts, -1, head_dim)
        return split.permute(2, 0, 3, 1, 4).unbind(0)


def _outputs(layer: Any, x: Tensor, begin: int, end: int) -> Tensor:
    """Outputs `begin` to `end` of a linear layer; a method's layer may compute them its own way."""
    if type(layer) is not nn.Linear and hasattr(layer, "rows"):
        found: Tensor = layer.rows(x, begin, end)
        return found
    # Rows of the fused matrix: a view, nothing is copied.
    bias = None if layer.bias is None else layer.bias[begin:end]
    return F.linear(x, layer.weight[begin:end], bias)
