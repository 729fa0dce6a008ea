"""Transformer blocks: `mix` (tokens attend to one another), then `feed` (each token by itself)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import Unsupported
from methods.trunk.attention import AttentionView
from methods.trunk.cache import Past
from methods.trunk.feedforward import FeedForward
from methods.trunk.gated_attention import AttentionGates
from methods.trunk.selection import Selection
from methods.trunk.state import State

MakeNorm = Callable[[int], nn.Module]


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)) (pre-norm, Xiong et al. 2020).

    Without `norm_first` each norm comes after its sum (post-norm, Vaswani et al. 2017). With
    `cross`, a decoder's: between the two, every token also attends to the encoder's output.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        ffn: nn.Module,
        *,
        causal: bool,
        norm: MakeNorm = nn.LayerNorm,
        norm_first: bool = True,
        cross: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.causal, self.norm_first = causal, norm_first
        self.norm_mix = norm(dim)
        self.attention = attention
        self.norm_feed = norm(dim)
        self.ffn = ffn
        self.cross = cross
        if cross is not None:
            self.norm_cross = norm(dim)

    def forward(self, state: State) -> State:
        return self.feed(self.mix(state))

    @property
    def takes_selection(self) -> bool:
        """Whether `mix` works on packed tokens: its attention must support it."""
        return getattr(self.attention, "takes_selection", False)

    def mix(
        self,
        state: State,
        context: State | None = None,
        mask: Tensor | None = None,
        selection: Selection | None = None,
        view: AttentionView | None = None,
        gates: AttentionGates | None = None,
    ) -> State:
        """The attention half. With `context`, the tokens of `state` attend to those of `context`.

        `mask` is used instead of the one that follows from the states. Where the state has a cache,
        its tokens also attend to all earlier ones, and those of `context` (or its own) join them.
        A decoder's block then attends to `state.memory` [B, S, D]. With `selection`, x is packed
        [1, N, D], as `selection.take` gives it, and stays so. `view` is filled with
        keys and class-token scores (`AttentionView`); `gates` weigh or leave out keys and heads
        (`AttentionGates`). Tokens that stand for several (`state.sizes`)
        weigh as many: log sizes are added to the scores (proportional attention, Bolya et al.
        2023, Token Merging, equation 1).
        """
        if mask is None and state.cache is None:  # a cache derives the mask itself
            mask = attention_mask(state, context, causal=self.causal)
        x = self.norm_mix(state.x) if self.norm_first else state.x
        around = None if context is None else context.x
        if around is not None and self.norm_first:
            around = self.norm_mix(around)  # keys and values are those of normed tokens too
        attention = self.attention  # nn.Module's __getattr__ is slow: look it up once
        # Keywords only where they are used: a replaced attention layer need not accept them.
        plain = state.cache is None and getattr(attention, "rotary", None) is None
        keywords = {} if plain else self._keywords(state, context)
        if selection is not None:
            keywords["selection"] = selection
        if view is not None:
            keywords["view"] = view
        if gates is not None:
            keywords["gates"] = gates
        mixed = state.x + attention(x, mask, around, **keywords)
        mixed = mixed if self.norm_first else self.norm_mix(mixed)
        if self.cross is None:
            return state.with_x(mixed)
        return state.with_x(self._attend_memory(state, mixed, selection))

    def _attend_memory(self, state: State, x: Tensor, selection: Selection | None) -> Tensor:
        """`x` [B, T, D], or packed [1, N, D], after attending to the encoder's output."""
        assert self.cross is not None
        seen = None if state.memory_mask is None else state.memory_mask[:, None, None, :]
        asking = self.norm_cross(x) if self.norm_first else x
        read = x + self.cross(asking, seen, state.memory, selection=selection)
        return read if self.norm_first else self.norm_cross(read)

    def feed(self, state: State) -> State:
        """The feed-forward half; adds the layer's auxiliary loss to the state's, if it has one."""
        x = self.norm_feed(state.x) if self.norm_first else state.x
        ffn = self.ffn
        # The common class is compared first: a failing getattr on an nn.Module searches parameters,
        # buffers and modules, and costs more than a small layer's activation.
        takes_mask = type(ffn) is not FeedForward and getattr(ffn, "takes_mask", False)
        fed = ffn(x, state.real_tokens()) if takes_mask else ffn(x)
        fed, aux_loss = fed if isinstance(fed, tuple) else (fed, None)
        x = state.x + fed
        new = state.with_x(x if self.norm_first else self.norm_feed(x))
        if aux_loss is not None:
            new.aux_loss = state.aux_loss + aux_loss  # `new` is this call's own copy
        return new

    def remember(self, state: State) -> None:
        """Put the keys and values of the state's tokens into its cache, without querying."""
        attention: Any = self.attention
        x = self.norm_mix(state.x) if self.norm_first else state.x
        attention.remember(x, **self._keywords(state, None))

    def _keywords(self, state: State, context: State | None) -> dict[str, Any]:
        """Arguments of the attention beyond x and mask: rotary positions, the past."""
        keywords: dict[str, Any] = {}
        if getattr(self.attention, "rotary", None) is not None:
            keywords["positions"] = state.positions
            if context is not None:
                keywords["context_positions"] = context.positions
        if state.cache is not None:
            keywords["past"] = self._past(state, context)
        return keywords

    def _past(self, state: State, context: State | None) -> Past:
        if not hasattr(self.attention, "remember"):
            raise Unsupported(f"{type(self.attention).__name__} keeps no keys and values")
        assert state.cache is not None
        layer = state.cache.layer(self.attention)
        if context is None:
            return Past(layer, state.index, state.mask)
        # The context holds this pass's tokens without gaps: the distance to its first is the rank.
        rank = state.token_positions() - context.token_positions()[:, :1]  # [n, K]
        return Past(layer, state.index, context.mask, querying=rank)


def _size_bias(state: State, keys: State, *, causal: bool) -> Tensor:
    """log sizes of the keys where a token may attend, -inf elsewhere, [B, 1, 1 or T, S]."""
    assert keys.sizes is not None
    # exp(score + log size) = size x exp(score): the softmax weighs a token as often as it counts.
    bias = keys.sizes.to(state.x.dtype).log()[:, None, None, :]
    allowed = attention_mask(replace(state, sizes=None), replace(keys, sizes=None), causal=causal)
    return bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)


def attention_mask(state: State, context: State | None, *, causal: bool) -> Tensor | None:
    """Which token may attend to which, bool [B, 1, 1 or T, S]; None: the attention's own rule.

    With `sizes` a float bias instead. Tokens of a state are in order of position, so the plain
    causal rule also holds for a subset of them.
    """
    keys = state if context is None else context
    if keys.sizes is not None:
        return _size_bias(state, keys, causal=causal)
    if keys.mask is None and (context is None or not causal):
        return None
    allowed = None if keys.mask is None else keys.mask[:, None, None, :]  # [B, 1, 1, S]
    if not causal:
        return allowed
    # By original positions: queries and keys may be different subsets of the tokens.
    order = state.token_positions()[:, None, :, None] >= keys.token_positions()[:, None, None, :]
    return order if allowed is None else order & allowed
