"""What gates of tokens, heads and halves of a block cost, each alone and all of them together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.routing import Cost, Decision
from methods.trunk.costs import linear_flops


class GatedCosts:
    """FLOPs of a block's halves for k tokens of a sample: a k + 4 D k^2 in attention, b k after it.

    A head takes its share of attention, projections included. With `class_token`, a sample has one
    token more than run.
    """

    def __init__(self, block: Any, pair: float, class_token: bool) -> None:
        self._mix, self._pair = float(linear_flops(block.attention)), pair
        self._feed = float(linear_flops(block.ffn))
        self._class_token = class_token

    def mix(self, num_tokens: Any) -> Any:
        """Attention of `num_tokens` of a sample, a number or a tensor."""
        return self._mix * num_tokens + self._pair * num_tokens**2

    def feed(self, num_tokens: Any) -> Any:
        """The feed-forward half of `num_tokens` of a sample, a number or a tensor."""
        return self._feed * num_tokens

    def of_token(self) -> Cost:
        """A running token in a block whose other gates are open."""
        return Cost(self._mix + self._feed, pair=self._pair)

    def declared(
        self,
        tokens: Decision | None,
        heads: Decision | None,
        mix: Decision | None,
        feed: Decision | None,
    ) -> float:
        """FLOPs of one call: for running tokens, the running share of heads in running halves."""
        mixing, feeding = self._of_running_tokens(tokens, heads, mix, feed)
        if heads is not None:
            mixing = mixing * heads.run.double().mean(1)  # [n]
        if mix is not None and feed is not None:
            mixing, feeding = mixing * mix.run, feeding * feed.run
        return float((mixing + feeding).sum())

    def _of_running_tokens(
        self,
        tokens: Decision | None,
        heads: Decision | None,
        mix: Decision | None,
        feed: Decision | None,
    ) -> tuple[Tensor, Tensor]:
        """FLOPs of both halves with all heads, of each sample [n] or alike for all []."""
        if tokens is not None:
            kept = tokens.run.double().sum(1) + self._class_token  # [n]
            return self.mix(kept), self.feed(kept)
        # Without gates of tokens all run, and other gates announced their costs for as many.
        none = torch.zeros((), dtype=torch.double)
        mixing, feeding = none, none
        if heads is not None:
            mixing = none + sum(heads.costs())
        if mix is not None and feed is not None:
            mixing, feeding = none + mix.costs()[0], none + feed.costs()[0]
        return mixing, feeding
