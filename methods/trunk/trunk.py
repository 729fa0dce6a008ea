"""A dense model as stem, blocks and head.

    state = trunk.stem(batch)           # State: x [B, T, D], mask, positions, ...
    for block in trunk.blocks:
        state = block(state)            # = block.feed(block.mix(state)) in a transformer
    logits = trunk.head(state)          # [B, C], or [B, T, C] where each position is predicted

Calling the trunk does just that. A method may drive the parts itself: leave out samples
(`state.select`) or tokens (`state.take`), stop early, or call the halves of a block one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import Cost
from bench.types import Batch, Output, TaskSpec
from methods.trunk.cache import Cache
from methods.trunk.costs import linear_flops
from methods.trunk.decoding import greedy
from methods.trunk.state import State as State  # plugins import it from here


class Trunk(nn.Module):
    """A dense model: calling it runs the stem, every block and the head.

    `stem` maps a Batch to a State, each block a State to a State, `make_head()` gives a module
    State -> logits. `dim` is the width D of the state. With `class_token`, the first token is not
    part of the input: the head reads it, and a method must not drop it.
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
        """FLOPs (2 x MAC) of every block: of a token in its linear layers, of a pair in attention.

        Scores and mixing take 2 D each for every ordered pair of tokens of a sample.
        """
        # Causal attention too is declared in full, as the FLOP meter counts it.
        return [Cost(element=float(linear_flops(b)), pair=4.0 * self.dim) for b in self.blocks]

    def begin(self, batch: Batch, cache: Cache | None = None) -> State:
        """The stem's state; with a cache, that of the tokens after those which the cache holds."""
        state: State
        if cache is None:
            state = self.stem(batch)
            return state
        state = self.stem(batch, cache.length)
        if cache.length:  # the prompt itself starts at 0, which is the default
            places = torch.arange(state.x.shape[1], device=state.x.device) + cache.length
            state = replace(state, positions=places.expand(len(batch), -1))  # [B, T]
        return replace(state, cache=cache)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits [B, C] or [B, T, C], and the sum of the auxiliary losses of the layers.

        With a cache, `batch` holds the next tokens; logits are the last one's only, [B, 1, C].
        """
        state = self.begin(batch, cache)
        for block in self.blocks:
            state = block(state)
        if cache is not None:
            # Generation needs the last token only, and the head is often the widest layer.
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
    # Collected before anything is replaced: a replacement may hold the old module inside.
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
