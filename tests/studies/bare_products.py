"""A method's products alone: the same matrix products as in a pass, and nothing that decides.

What they take is the most that a method can gain: short products are slower than long ones by more
than their FLOPs, and weights are read whatever the number of rows. Each function returns a pass
over images [B, 3, height, width].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import Batch
from methods.parts.dispatch import Order
from methods.trunk.trunk import Trunk

Pass = Callable[[Tensor], Tensor]


def with_lengths(trunk: Trunk, before: Sequence[int], behind: Sequence[int]) -> Pass:
    """`trunk` where block i mixes the first `before[i]` tokens and feeds the first `behind[i]`."""
    blocks: list[Any] = list(trunk.blocks)

    def run(x: Tensor) -> Tensor:
        state = trunk.stem(Batch(x, x))
        for block, mixed, fed in zip(blocks, before, behind, strict=True):
            state = block.mix(state.with_x(_first(state.x, mixed)))
            state = block.feed(state.with_x(_first(state.x, fed)))
        logits: Tensor = trunk.head(state)
        return logits

    return run


def _first(x: Tensor, length: int) -> Tensor:
    """The first `length` tokens of `x` [B, T, D], side by side in memory."""
    return x if length == x.shape[1] else x[:, :length].contiguous()


def with_routed_lengths(trunk: Trunk, num_taken: int) -> Pass:
    """`trunk` whose every second block works on the first `num_taken` tokens."""

    def run(x: Tensor) -> Tensor:
        state = trunk.stem(Batch(x, x))
        for number, block in enumerate(trunk.blocks):
            if number % 2 == 0:
                state = block(state)
                continue
            new = block(state.with_x(_first(state.x, num_taken)))
            state = state.with_x(torch.cat([new.x, state.x[:, num_taken:]], 1))
        logits: Tensor = trunk.head(state)
        return logits

    return run


def with_exits(trunk: Trunk, heads: Sequence[nn.Module]) -> Pass:
    """The first blocks of `trunk`, one for each of `heads`, each of which is called behind one."""

    def run(x: Tensor) -> Tensor:
        state, logits = trunk.stem(Batch(x, x)), x
        for block, head in zip(trunk.blocks, heads, strict=False):
            state = block(state)
            logits = head(state)
        return logits

    return run


def with_even_groups(trunk: Trunk, top_k: int, num_tokens: int) -> Pass:
    """`trunk` whose routed feed-forward layers run `top_k` groups a token, evenly, unrouted."""
    bare = deepcopy(trunk)
    for block in bare.blocks:
        layer: Any = block.ffn
        groups = getattr(layer, "experts", None) or layer.blocks
        block.ffn = EvenGroups(groups, top_k * num_tokens, trunk.dim)
    return lambda x: bare(Batch(x, x)).logits


class EvenGroups(nn.Module):
    """The products of `groups` on rows that were drawn before and are sorted by group already."""

    def __init__(self, groups: Any, num_rows: int, dim: int) -> None:
        super().__init__()
        self.groups = groups
        numbers = torch.arange(num_rows) * len(groups.up) // num_rows  # [P], the group of each row
        ends = numbers.bincount().cumsum(0, dtype=torch.int32)
        self.order = Order(torch.arange(num_rows), numbers, ends)
        self.rows = torch.randn(num_rows, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[1, T, D] -> [1, T, D], of which only the shape comes from `x`."""
        result: Tensor = self.groups.run_sorted(self.rows, self.order)
        return result[: x.shape[1]][None]
