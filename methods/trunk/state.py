"""The state that travels through a trunk: x, and everything that belongs to its rows and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.trunk.cache import Cache


@dataclass
class State:
    """What travels through a trunk; None stands for the common case, which then costs nothing.

    `index` [B]: the original sample of each row, None for the whole batch in order.
    `positions` [B, T]: the original position of each token, None for 0..T-1.
    `mask` [B, T] bool: true where the token is real, None where all are.
    `routed` [B, T] bool: tokens that routing counts, None for those of `mask`. A decoder's padding
    comes last, where no token attends to it: attention needs no mask for it, but routing does.
    `sizes` [B, T]: how many original tokens each token stands for, None for one each.
    `cache`: keys and values of earlier tokens during generation.
    `memory` [B, S, D], `memory_mask` [B, S] bool: the encoder's output that a decoder reads, and
    which of its tokens are real.
    """

    x: Tensor  # [B, T, D]; feature maps [B, C, height, width] in a convolutional trunk
    index: Tensor | None = None
    positions: Tensor | None = None
    mask: Tensor | None = None
    routed: Tensor | None = None
    sizes: Tensor | None = None
    cache: Cache | None = None
    aux_loss: Tensor | float = 0.0
    memory: Tensor | None = None
    memory_mask: Tensor | None = None

    def with_x(self, x: Tensor) -> State:
        """This state with another `x`."""
        return self.changed(x=x)

    def changed(self, **fields: Any) -> State:
        """This state with other values of the fields that are named."""
        # dataclasses.replace runs __init__ over all fields, several times as slow. Blocks come here
        # twice each, and at batch 1 that is visible in the latency.
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, **fields)
        return new

    def select(self, rows: Tensor) -> State:
        """The samples in `rows` [n] (integers), with `index` pointing at the original batch."""

        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.index_select(0, rows)

        return self.changed(
            x=take_rows(self.x, rows),
            # `rows` counts in the current, possibly already compacted batch.
            index=rows if self.index is None else self.index.index_select(0, rows),
            positions=pick(self.positions),
            mask=pick(self.mask),
            routed=pick(self.routed),
            sizes=pick(self.sizes),
            memory=pick(self.memory),
            memory_mask=pick(self.memory_mask),
        )

    def take(
        self, tokens: Tensor, places: Tensor | None = None, samples: Tensor | None = None
    ) -> State:
        """The tokens `tokens` [B, K] of each sample (increasing), with their original positions.

        With `places` [N], where some of them are in a flattened [B, T], x holds those alone, in one
        row [1, N, D]; all else stays [B, K]. With `samples` [n], `tokens` [n, K] are of these.
        """
        new = self if samples is None else self._of_samples(samples)
        by_token = {name: getattr(self, name) for name in ("positions", "mask", "routed", "sizes")}
        by_token = {name: value for name, value in by_token.items() if value is not None}
        if places is not None:
            x = self.x.flatten(0, 1).index_select(0, places)[None]  # [1, N, D]
        else:
            by_token["x"] = x = self.x
        if by_token:  # places of padding too: not worked out where only x is taken
            everywhere = flat_places(tokens, self.x.shape[1], samples)  # [B K]
            # One index_select on flattened rows: gather would need an index as wide as D.
            by_token = {
                name: value.flatten(0, 1)
                .index_select(0, everywhere)
                .view(*tokens.shape, *value.shape[2:])
                for name, value in by_token.items()
            }
        return new.changed(**{"x": x, "positions": tokens, **by_token})

    def _of_samples(self, samples: Tensor) -> State:
        """This state with what belongs to samples alone taken of `samples` [n]; the rest stays."""

        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.index_select(0, samples)

        return self.changed(
            index=samples if self.index is None else pick(self.index),
            memory=pick(self.memory),
            memory_mask=pick(self.memory_mask),
        )

    def real_tokens(self) -> Tensor | None:
        """The tokens that routing counts, bool [B, T]; None: all."""
        return self.mask if self.routed is None else self.routed

    def token_positions(self) -> Tensor:
        """The original position of every token, [B, T] (or [1, T] where all samples agree)."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.x.shape[1], device=self.x.device)[None]


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """The samples `rows` [n] of `x` [B, ...], in the memory layout of `x`."""
    if not _has_channels_last(x):
        return x.index_select(0, rows)
    # Of maps torch makes a copy with channels first, ten times as slowly, and every layer behind it
    # then works on two layouts.
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def put_rows(x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """`x` [B, ...] with `new` [n, ...] in its `rows` [n], in the memory layout of `x`."""
    if not _has_channels_last(x):
        return x.index_copy(0, rows, new)
    places = (0, 2, 3, 1)
    return x.permute(places).index_copy(0, rows, new.permute(places)).permute(0, 3, 1, 2)


def _has_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def flat_places(tokens: Tensor, length: int, samples: Tensor | None = None) -> Tensor:
    """Where the tokens `tokens` [B, K] are in a flattened [B, `length`], [B K].

    With `samples` [n], `tokens` [n, K] are those of these samples.
    """
    if samples is None:
        if len(tokens) == 1:
            return tokens.flatten()
        samples = torch.arange(len(tokens), device=tokens.device)
    return (tokens + samples[:, None] * length).flatten()
