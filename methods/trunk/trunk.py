"""A dense model as stem, blocks and head, and the state that travels through them.

    state = trunk.stem(batch)           # State: x [B, T, D], mask, positions, ...
    for block in trunk.blocks:
        state = block(state)            # = block.feed(block.mix(state)) in a transformer
    logits = trunk.head(state)          # [B, C], or [B, T, C] where each position is predicted

Calling the trunk does just that. A method may drive the parts itself: leave out samples
(`state.select`) or tokens (`state.take`), stop early, or call the halves of a block one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import Cost
from bench.types import Batch, Output, TaskSpec
from methods.trunk.cache import Cache
from methods.trunk.costs import linear_flops
from methods.trunk.decoding import greedy


@dataclass
class State:
    """What travels through a trunk.

    `index` [B]: the original sample of each row, None for the whole batch in order.
    `positions` [B, T]: the original position of each token, None for 0..T-1.
    `mask` [B, T] bool: true where the token is real, None where all are.
    `routed` [B, T] bool: tokens that routing counts, None for those of `mask`. A decoder's padding
    comes last, where no token sees it: attention needs no mask for it, but routing does.
    `sizes` [B, T]: how many original tokens each token stands for, None for one each.
    `cache`: keys and values of earlier tokens when generating.
    `memory` [B, S, D], `memory_mask` [B, S] bool: what a decoder reads, and which of it is real.
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
        """This state with another `x`: `dataclasses.replace` in a fraction of its time."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.x = x
        return new

    def select(self, rows: Tensor) -> State:
        """The samples in `rows` [n] (integers), with `index` pointing at the original batch."""

        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.index_select(0, rows)

        return replace(
            self,
            x=self.x.index_select(0, rows),
            index=rows if self.index is None else self.index.index_select(0, rows),
            positions=pick(self.positions),
            mask=pick(self.mask),
            routed=pick(self.routed),
            sizes=pick(self.sizes),
            memory=pick(self.memory),
            memory_mask=pick(self.memory_mask),
        )

    def take(self, tokens: Tensor, places: Tensor | None = None) -> State:
        """The tokens `tokens` [B, K] of each sample (increasing), with their original positions.

        With `places` [N], where some of them are in a flattened [B, T], x is theirs alone, in one
        row [1, N, D]; all else stays [B, K].
        """
        everywhere = flat_places(tokens, self.x.shape[1])

        def pick(value: Tensor) -> Tensor:
            return value.flatten(0, 1).index_select(0, everywhere).unflatten(0, tokens.shape)

        rows = self.x.flatten(0, 1)
        return replace(
            self,
            x=pick(self.x) if places is None else rows.index_select(0, places)[None],
            positions=tokens if self.positions is None else pick(self.positions),
            mask=None if self.mask is None else pick(self.mask),
            routed=None if self.routed is None else pick(self.routed),
            sizes=None if self.sizes is None else pick(self.sizes),
        )

    def real_tokens(self) -> Tensor | None:
        """The tokens that routing counts, bool [B, T]; None: all."""
        return self.mask if self.routed is None else self.routed

    def token_positions(self) -> Tensor:
        """The original position of every token, [B, T] (or [1, T] where all samples agree)."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.x.shape[1], device=self.x.device)[None]


def flat_places(tokens: Tensor, length: int) -> Tensor:
    """Where the tokens `tokens` [B, K] are in a flattened [B, `length`], [B K]."""
    first = torch.arange(len(tokens), device=tokens.device)[:, None] * length
    return (tokens + first).flatten()


class Trunk(nn.Module):
    """A dense model: calling it runs the stem, every block and the head.

    `stem` maps a Batch to a State, each block a State to a State, `make_head()` gives a module
    State -> logits. `dim` is the width D of the state. With `class_token`, the first token is no
    part of the input: the head reads it, and a method must not lose it.
    """

    tokens = True  # the state is a row of tokens; false where it is feature maps

    def __init__(
        self,
        spec: TaskSpec,
        dim: int,
        stem: nn.Module,
        blocks: list[nn.Module],
        make_head: Callable[[], nn.Module],
        *,
        class_token: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.dim = dim
        self.class_token = class_token
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.head = make_head()
        self._make_head = make_head

    def new_head(self, num_blocks: int | None = None) -> nn.Module:
        """A fresh head of the same form (State -> logits), for early exits.

        It fits the state after `num_blocks` blocks (None: all), whose width is the same here.
        """
        return self._make_head()

    def block_costs(self) -> list[Cost]:
        """FLOPs of every block: of one token in its linear layers, and of a pair in attention.

        Scores and mixing take 2 D each for every ordered pair of tokens of a sample.
        """
        return [Cost(element=float(linear_flops(b)), pair=4.0 * self.dim) for b in self.blocks]

    def begin(self, batch: Batch, cache: Cache | None = None) -> State:
        """The stem's state; with a cache, that of the tokens after those which the cache holds."""
        state: State
        if cache is None:
            state = self.stem(batch)
            return state
        state = self.stem(batch, cache.length)
        if cache.length:
            places = torch.arange(state.x.shape[1], device=state.x.device) + cache.length
            state = replace(state, positions=places.expand(len(batch), -1))
        return replace(state, cache=cache)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits [B, C] or [B, T, C], and the sum of the auxiliary losses of the layers.

        With a cache, `batch` holds the next tokens; logits are the last one's only, [B, 1, C].
        """
        state = self.begin(batch, cache)
        for block in self.blocks:
            state = block(state)
        if cache is not None:
            state = replace(state, x=state.x[:, -1:])
        return Output(self.head(state), state.aux_loss)

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens, one by one; see `methods.trunk.decoding`."""
        return greedy(self, self.spec, prompt, num_tokens)


def swap(
    model: nn.Module, kind: type[nn.Module], make: Callable[[str, Any], nn.Module | None]
) -> int:
    """Replace every module of `kind` inside `model` in place; returns how many were replaced.

    `make(name, old)` gives the new module, or None to keep the old one. What `make` returns is
    not searched again.
    """
    found = [
        (path, name, child)
        for path, parent in model.named_modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
    num_replaced = 0
    for path, name, child in found:
        new = make(f"{path}.{name}" if path else name, child)
        if new is not None:
            setattr(model.get_submodule(path), name, new)
            num_replaced += 1
    return num_replaced
