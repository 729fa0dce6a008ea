"""Transformer blocks: `mix` (tokens look at one another), then `feed` (each token by itself)."""

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
from methods.trunk.selection import Selection
from methods.trunk.state import State

MakeNorm = Callable[[int], nn.Module]


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)) (pre-norm, Xiong et al. 2020).

    Without `norm_first` each norm comes after its sum (post-norm, Vaswani et al. 2017). With
    `cross`, a decoder's: between the two, every token also looks at the encoder's output.
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
        """Whether `mix` works on packed tokens: attention must know how, and read nothing else."""
        return self.cross is None and getattr(self.attention, "takes_selection", False)

    def mix(
        self,
        state: State,
        context: State | None = None,
        mask: Tensor | None = None,
        selection: Selection | None = None,
        view: AttentionView | None = None,
    ) -> State:
        """The attention half. With `context`, the tokens of `state` look at those of `context`.

        `mask` is used instead of the one that follows from the states. Where the state has a cache,
        its tokens also look at all earlier ones, and those of `context` (or its own) join them.
        A decoder's block then looks at `state.memory` [B, S, D]. With `selection`, x is packed
        [1, N, D], as `selection.take` gives it, and stays so. `view` is filled with
        keys and class-token scores (`AttentionView`). Tokens that stand for several (`state.sizes`)
        weigh as many: log sizes are added to the scores (proportional attention, Bolya et al.
        2023, Token Merging, equation 1).
        """
        if mask is None and state.cache is None:
            mask = attention_mask(state, context, causal=self.causal)
        x = self.norm_mix(state.x) if self.norm_first else state.x
        around = None if context is None else context.x
        if around is not None and self.norm_first:
            around = self.norm_mix(around)
        attention = self.attention  # a module's attribute costs more than a name
        plain = state.cache is None and getattr(attention, "rotary", None) is None
        places = {} if plain else self._places(state, context)
        if selection is not None:
            places["selection"] = selection
        if view is not None:
            places["view"] = view
        mixed = state.x + attention(x, mask, around, **places)
        mixed = mixed if self.norm_first else self.norm_mix(mixed)
        return state.with_x(mixed if self.cross is None else self._read(state, mixed))

    def _read(self, state: State, x: Tensor) -> Tensor:
        """`x` [B, T, D] after looking at the encoder's output."""
        assert self.cross is not None
        seen = None if state.memory_mask is None else state.memory_mask[:, None, None, :]
        read = x + self.cross(self.norm_cross(x) if self.norm_first else x, seen, state.memory)
        return read if self.norm_first else self.norm_cross(read)

    def feed(self, state: State) -> State:
        """The feed-forward half; adds the layer's auxiliary loss to the state's, if it has one."""
        x = self.norm_feed(state.x) if self.norm_first else state.x
        ffn = self.ffn
        # Asking a module for what it has not costs more than a small layer's activation.
        takes_mask = type(ffn) is not FeedForward and getattr(ffn, "takes_mask", False)
        fed = ffn(x, state.real_tokens()) if takes_mask else ffn(x)
        fed, aux_loss = fed if isinstance(fed, tuple) else (fed, None)
        x = state.x + fed
        new = state.with_x(x if self.norm_first else self.norm_feed(x))
        if aux_loss is not None:
            new.aux_loss = state.aux_loss + aux_loss
        return new

    def remember(self, state: State) -> None:
        """Put the keys and values of the state's tokens into its cache; nobody asks, x stays."""
        attention: Any = self.attention
        x = self.norm_mix(state.x) if self.norm_first else state.x
        attention.remember(x, **self._places(state, None))

    def _places(self, state: State, context: State | None) -> dict[str, Any]:
        """What the attention must know beyond x and mask: positions if it turns, the past."""
        places: dict[str, Any] = {}
        if getattr(self.attention, "rotary", None) is not None:
            places["positions"] = state.positions
            if context is not None:
                places["context_positions"] = context.positions
        if state.cache is not None:
            places["past"] = self._past(state, context)
        return places

    def _past(self, state: State, context: State | None) -> Past:
        if not hasattr(self.attention, "remember"):
            raise Unsupported(f"{type(self.attention).__name__} keeps no keys and values")
        assert state.cache is not None
        layer = state.cache.layer(self.attention)
        if context is None:
            return Past(layer, state.index, state.mask)
        rank = state.token_positions() - context.token_positions()[:, :1]
        return Past(layer, state.index, context.mask, asking=rank)


def _size_bias(state: State, keys: State, *, causal: bool) -> Tensor:
    """log sizes of the keys where a token may look, -inf elsewhere, [B, 1, 1 or T, S]."""
    assert keys.sizes is not None
    bias = keys.sizes.to(state.x.dtype).log()[:, None, None, :]
    allowed = attention_mask(replace(state, sizes=None), replace(keys, sizes=None), causal=causal)
    return bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)


def attention_mask(state: State, context: State | None, *, causal: bool) -> Tensor | None:
    """Who may look at whom, bool [B, 1, T, S]; None where the attention's own rule is enough.

    Tokens of a state are in order of position, so a plain causal rule also holds for a subset.
    """
    keys = state if context is None else context
    if keys.sizes is not None:
        return _size_bias(state, keys, causal=causal)
    if keys.mask is None and (context is None or not causal):
        return None
    allowed = None if keys.mask is None else keys.mask[:, None, None, :]
    if not causal:
        return allowed
    order = state.token_positions()[:, None, :, None] >= keys.token_positions()[:, None, None, :]
    return order if allowed is None else order & allowed
