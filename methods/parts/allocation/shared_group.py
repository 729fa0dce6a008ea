"""A trunk whose inner blocks are one group of shared weights, run up to R times on some tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Unsupported
from methods.parts.allocation.elements import as_number
from methods.parts.tokens.running_tokens import num_held, run_blocks
from methods.trunk.cache import Cache
from methods.trunk.costs import cost_of_tokens
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class SharedGroup(nn.Module):
    """`trunk` with its first `size` inner blocks as the only ones, in a group that is repeated.

    The first and the last block keep weights of their own. Raises Unsupported where the state is
    not a row of tokens, or there are too few blocks.
    """

    limit: Tensor  # the most recursions that a token may run

    def __init__(self, trunk: Trunk, size: int, num_recursions: int) -> None:
        super().__init__()
        if not trunk.tokens:
            raise Unsupported("recursions route tokens; this trunk works on feature maps")
        if len(trunk.blocks) < size + 2:
            raise Unsupported(
                f"recursions keep the first and the last block and repeat group={size}"
                f" between them; this trunk has {len(trunk.blocks)}"
            )
        self.num_recursions = num_recursions
        end = 1 + size
        self.costs = trunk.block_costs()[1:end]
        trunk.blocks = nn.ModuleList([*trunk.blocks[:end], trunk.blocks[-1]])
        self.trunk = trunk
        self.register_buffer("limit", torch.tensor(num_recursions))

    def _decide(
        self,
        number: int,
        state: State,
        cache: Cache | None,
        probability: Tensor,
        own: Tensor,
        live: Tensor,
    ) -> Tensor:
        """Announce what runs recursion `number`; the first runs on every token."""
        if number == 0:
            return own
        group: list[Any] = list(self.trunk.blocks[1:-1])
        costs = [
            cost_of_tokens(*each, state.memory) for each in zip(group, self.costs, strict=True)
        ]
        return routing.decide(
            f"recursion{number}",
            axes=routing.TOKENS,
            probabilities=probability,
            run=own & (self.limit > number),
            cost=routing.Cost(
                sum(as_number(cost.element) for cost in costs),
                sum(cost.pair for cost in costs),
                sum(cost.sample for cost in costs),
            ),
            eligible=live,
            past=lambda: (
                None
                if cache is None
                else num_held(group[0], replace(state, cache=cache.step(number)))
            ),
        )

    def _recur(self, number: int, state: State, run: Tensor, cache: Cache | None) -> State:
        """The group on the running tokens; the others stay bit for bit."""
        if cache is not None:
            state = replace(state, cache=cache.step(number))
        return run_blocks(self.trunk.blocks[1:-1], state, run)
