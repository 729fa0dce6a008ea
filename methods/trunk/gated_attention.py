"""Attention whose keys and heads have gates: weighed in training, left out at inference.

Letters in shapes: B samples, T queries, S keys, D width, d = D / heads, K tokens of the longest
sample, P pairs of a sample and a head that run, Q pairs of a token and a head that run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.trunk.selection import Selection


@dataclass(frozen=True)
class AttentionGates:
    """What gates let through one attention layer; None: everything.

    `keys` [B, S], `heads` [B, heads]: factors with gradient, for training, which computes all.
    `run` [B, heads] bool: the only heads that are computed, for inference.
    """

    keys: Tensor | None = None
    heads: Tensor | None = None
    run: Tensor | None = None


def takes_gates(blocks: Iterable[Any]) -> bool:
    """Whether the attention layers of all blocks accept `AttentionGates`."""
    return all(getattr(getattr(b, "attention", None), "takes_gates", False) for b in blocks)


def mix_weighed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    gates: AttentionGates,
    *,
    causal: bool,
) -> Tensor:
    """Attention with factors on keys and heads; all [B, heads, T or S, d], the result too.

    A key's weight is exp(score) x factor, where the own key always has the factor 1 (Rao et al.
    2021, DynamicViT, equation 11). With factors of 0 and 1 that is attention among the kept tokens.
    """
    if key.shape[1] < query.shape[1]:  # one key for several queries: one for each
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, 1) for each in (key, value))
    if gates.keys is None:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    else:
        scores = query.float() @ key.float().transpose(2, 3) / query.shape[-1] ** 0.5
        scores = _hide(scores, mask, causal=causal)  # [B, heads, T, S]
        itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        factor = torch.where(itself, 1.0, gates.keys[:, None, None, :].float())
        # A factor, not a bias of its logarithm: closed keys have a gradient, too.
        weights = (scores - scores.amax(-1, keepdim=True).detach()).exp() * factor
        total = weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        mixed = (weights / total).to(value.dtype) @ value
    if gates.heads is None:
        return mixed
    return mixed * gates.heads[..., None, None].to(mixed.dtype)


def _hide(scores: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """`scores` [B, heads, T, S] with the lowest number where a query may not attend."""
    if causal:
        mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    if mask is None:
        return scores
    # Not -inf: a query of a sample of padding only may attend to nothing, and would be NaN.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask


def mix_heads(
    attention: Any,
    x: Tensor,
    mask: Tensor | None,
    run: Tensor,
    *,
    positions: Tensor | None = None,
    selection: Selection | None = None,
) -> Tensor:
    """The attention layer over `x` [B, T, D] with the heads `run` [B, heads] bool alone.

    All products are those of the running heads: each head projects the tokens of the samples that
    run it, attention works on P pairs of sample and head, and each head's part of the output
    matrix adds its result. `mask`, `positions` and `selection` (then x is packed [1, N, D]) as in
    `Attention.forward`.
    """
    shape = x.shape[:2] if selection is None else selection.tokens.shape
    slots = None if selection is None else selection.rows  # [N], in a flattened [B, K]
    rows = x.flatten(0, 1)  # [N, D]
    owner = torch.arange(shape[0] * shape[1], device=x.device) if slots is None else slots
    # nonzero is in row-major order: sorted by head, and by token inside a head.
    of_token = run.index_select(0, owner // shape[1])  # [N, heads]
    pairs = of_token.t().nonzero()  # [Q, 2]
    out = torch.zeros_like(rows)
    if len(pairs):
        ends = of_token.sum(0).cumsum(0).tolist()
        parts = [pairs[a:b, 1] for a, b in zip([0, *ends], ends, strict=False)]
        projected = _project(attention, rows, parts)  # [Q, 3 d]
        places = None
        if slots is not None:  # pairs of sample and head are numbered in the same order
            number = (run.t().flatten().cumsum(0) - 1).view(run.t().shape)  # [heads, B]
            slot = slots.index_select(0, pairs[:, 1])
            places = number[pairs[:, 0], slot // shape[1]] * shape[1] + slot % shape[1]
        mixed = _attend(attention, projected, run, shape[1], places, mask, positions)  # [Q, d]
        _add_outputs(attention, out, mixed, parts)
    bias = attention.out.bias
    return (out if bias is None else out + bias.to(out.dtype)).view_as(x)


def _project(attention: Any, rows: Tensor, parts: list[Tensor]) -> Tensor:
    """Query, key and value of every running pair of token and head, [Q, 3 d], sorted by head."""
    weight = attention.qkv.weight.unflatten(0, (3, attention.num_heads, -1))  # [3, heads, d, D]
    bias = attention.qkv.bias
    each = None if bias is None else bias.unflatten(0, (3, attention.num_heads, -1))
    return torch.cat(
        [
            F.linear(
                rows if len(part) == len(rows) else rows.index_select(0, part),
                weight[:, head].flatten(0, 1),
                None if each is None else each[:, head].flatten(),
            )
            for head, part in enumerate(parts)
            if len(part)
        ]
    )


def _attend(
    attention: Any,
    projected: Tensor,
    run: Tensor,
    num_tokens: int,
    places: Tensor | None,
    mask: Tensor | None,
    positions: Tensor | None,
) -> Tensor:
    """Attention's products of every running pair of sample and head, [Q, d].

    `places` [Q]: where each pair of token and head is in a flattened [P, K]; None: no padding.
    """
    samples = run.t().nonzero()[:, 1]  # [P], sorted by head
    whole = projected
    if places is not None:
        # Zeros, not uninitialised memory: NaN in the padding would survive a mask of -inf.
        whole = projected.new_zeros(len(samples) * num_tokens, projected.shape[1])
        whole = whole.index_copy(0, places, projected)
    parts = whole.view(len(samples), 1, num_tokens, 3, -1).unbind(3)  # three of [P, 1, K, d]
    query, key, value = parts
    if attention.rotary is not None:
        turned = None if positions is None else positions.expand(len(run), -1)[samples]
        query, key = (attention.rotary(each, turned) for each in (query, key))
    if mask is not None and len(mask) > 1:  # else all samples share it
        mask = mask.index_select(0, samples)
    causal = attention.causal and mask is None
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    mixed = mixed.flatten(0, 2)  # [P K, d]
    return mixed if places is None else mixed.index_select(0, places)


def _add_outputs(attention: Any, out: Tensor, mixed: Tensor, parts: list[Tensor]) -> None:
    """Add every running head's result, `mixed` [Q, d] sorted by head, to `out` [N, D]."""
    weight = attention.out.weight.unflatten(1, (attention.num_heads, -1))  # [D, heads, d]
    results = mixed.split([len(part) for part in parts])
    for head, (part, result) in enumerate(zip(parts, results, strict=True)):
        if len(part):  # no token twice in one head: the order of the sum is fixed
            added = F.linear(result, weight[:, head])
            out.index_add_(0, part, added.to(out.dtype))
