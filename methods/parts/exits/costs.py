"""FLOPs that the decisions of a model with exits declare: what continuing after an exit adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.routing import Cost
from bench.types import Batch
from methods.trunk.cache import Cache
from methods.trunk.costs import layer_flops, linear_flops
from methods.trunk.trunk import Trunk


class WithExits(Protocol):
    """A model of a trunk with exits, as `methods.parts.exits.model` is one."""

    trunk: Trunk
    ends: list[int]  # number of blocks run at each exit

    def stages(self) -> Iterator[tuple[Sequence[nn.Module], nn.Module]]:
        """The blocks up to each exit and the exit's head, in order."""
        ...


class ExitCosts:
    """Costs of the stages between the exits of `model`: blocks, and the head behind them."""

    def __init__(self, model: WithExits) -> None:
        trunk = model.trunk
        self.dim, self.ends = trunk.dim, model.ends
        self.causal = trunk.spec.causal or trunk.spec.kind == "seq2seq"
        blocks = list(trunk.blocks)
        stages = zip(self.ends, self.ends[1:], strict=False)
        # FLOPs of one token: in the linear layers of each later stage, and in a head.
        self._linear = [sum(map(linear_flops, blocks[a:b])) for a, b in stages]
        self._head = linear_flops(trunk.head)
        # FLOPs of one token's key and value, 2 D K each; with grouped-query attention K < D.
        attention = getattr(blocks[0], "attention", None)
        self._key_value = 2 * 2 * trunk.dim * getattr(attention, "kv_dim", trunk.dim)
        # And of one of the encoder's tokens, which the decoder's block reads; 0 without an encoder.
        cross = getattr(blocks[0], "cross", None)
        self._read = 0 if cross is None else 4 * cross.dim * cross.kv_dim
        self._of_maps = [] if trunk.tokens else _trace_stages(model)

    def after(
        self, number: int, num_tokens: int, cache: Cache | None, memory: Tensor | None = None
    ) -> Cost:
        """What the stage after exit `number` costs, of `num_tokens` tokens each sample.

        `memory` [B, S, D]: the encoder's output, that a decoder's tokens read.
        """
        num_read = 0 if memory is None else memory.shape[1]
        num_blocks = (self.ends[number + 1] - self.ends[number]) if self._read else 0
        # Scores over the encoder's tokens; the weights of their keys and values are no token's own.
        reading = num_blocks * (4 * num_read * self.dim - self._read)
        return Cost(
            element=self._element(number, num_tokens, cache) + reading,
            sample=self._visible(number, num_tokens, cache) + num_blocks * num_read * self._read,
        )

    def _visible(self, number: int, num_tokens: int, cache: Cache | None) -> float:
        """FLOPs of keys and values, for a sample in which any token continues.

        In a causal model those of all tokens stay visible. With a cache they are computed for
        every token, whatever the decisions, and so belong to none.
        """
        if not self.causal or cache is not None:
            return 0.0
        num_blocks = self.ends[number + 1] - self.ends[number]
        return float(num_blocks * num_tokens * self._key_value)

    def _element(self, number: int, num_tokens: int, cache: Cache | None) -> float:
        """FLOPs of the stage for one more sample, or for one more querying token.

        Attention: 2 T D for scores and for mixing each, per querying token and block, for T keys.
        """
        if self._of_maps:
            return self._of_maps[number]
        num_blocks = self.ends[number + 1] - self.ends[number]
        num_keys = num_tokens + (0 if cache is None else cache.length)
        per_token = self._linear[number] + num_blocks * 4 * num_keys * self.dim
        if self.causal:
            # Of a prompt only the last token reaches the final head.
            unread = cache is not None and num_tokens > 1 and number + 2 == len(self.ends)
            # A token's own key and value are part of the sample's, whether or not it queries.
            return per_token - num_blocks * self._key_value + (0 if unread else self._head)
        return num_tokens * per_token + self._head


def _trace_stages(model: WithExits) -> list[int]:
    """FLOPs of each later stage with its head for one sample of feature maps, from shapes."""
    shadow: Any = deepcopy(model)
    shadow.to("meta").eval()
    inputs = torch.zeros(1, *model.trunk.spec.input_shape, device="meta")
    found: list[int] = []
    with torch.no_grad(), layer_flops(shadow) as calls:
        state = shadow.trunk.stem(Batch(inputs, inputs))
        for blocks, head in shadow.stages():
            calls.clear()  # of the stem, or of the stage before
            for block in blocks:
                state = block(state)
            head(state)
            found.append(sum(calls))
    return found[1:]  # the first stage runs always
