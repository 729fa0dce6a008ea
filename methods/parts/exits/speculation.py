"""A trunk that drafts with its first blocks and verifies with all of them.

    draft     token -> first blocks -> head -> next token, several times
    verify    the drafts' states -> other blocks -> head, in one pass over all of them

Drafts and verification share the first blocks' states and their keys and values: nothing is
computed twice for a draft that is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp, log
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import TOKENS, decide, region
from bench.types import Batch, Output
from methods.trunk.cache import Cache
from methods.trunk.decoding import make_cache
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class SpeculativeModel(nn.Module):
    """`trunk`, whose head also reads the state after `num_draft_blocks` blocks.

    In training, block l is left out for a sample with probability `dropout`[l], and the head's
    logits after the blocks `taught` (numbers from 0) are in `stats["exits"]`.
    """

    def __init__(self, trunk: Trunk, dropout: Sequence[float]) -> None:
        super().__init__()
        self.trunk, self.dropout = trunk, list(dropout)
        self.num_draft_blocks, self.num_drafts = 1, 0
        self.taught: frozenset[int] = frozenset()
        self.num_steps = 0  # of training, for a curriculum

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """As the trunk; in training with blocks left out and `stats["exits"]`, [B, T, C] each."""
        return self._run_dropping(batch) if self.training else self.trunk(batch, cache)

    def _run_dropping(self, batch: Batch) -> Output:
        state, exits = self.trunk.begin(batch), dict[int, Tensor]()
        for number, block in enumerate(self.trunk.blocks):
            before, state = state.x, block(state)
            # All blocks are computed and some results are not used: training masks.
            kept = torch.rand(len(before), device=before.device) >= self.dropout[number]
            state = state.with_x(torch.where(kept[:, None, None], state.x, before))
            if number in self.taught:
                exits[number] = self.trunk.head(state)
        return Output(self.trunk.head(state), state.aux_loss, {"exits": exits})

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The full model's greedy tokens [B], `num_tokens` times; raises as `greedy` does."""
        return self._speculate(prompt, num_tokens, make_cache(self.trunk.spec, prompt, num_tokens))

    def _speculate(self, prompt: Batch, left: int, cache: Cache) -> Iterator[Tensor]:
        token = self.trunk(prompt, cache).logits[:, -1].argmax(-1)  # [B]
        cache.length += prompt.inputs.shape[1]
        yield token
        left -= 1
        while left:
            begin = cache.length
            # One token less than is wanted: a verification adds one of its own.
            drafts, state = self._draft(token, min(self.num_drafts, left - 1), cache)
            tokens = self._verify(state)  # [B, drafts + 1]
            num_accepted = self._count_accepted(drafts, tokens)
            yield from tokens[:, : num_accepted + 1].unbind(1)
            token = tokens[:, num_accepted]
            left -= num_accepted + 1
            cache.rewind(begin + num_accepted + 1)

    def _draft(self, token: Tensor, num: int, cache: Cache) -> tuple[list[Tensor], State]:
        """`num` drafts, each its logits [B, C], and the state of all tokens after the first blocks.

        Its tokens are `token` and the drafts, [B, num + 1, D].
        """
        begin, drafts, states = cache.length, list[Tensor](), list[Tensor]()
        for _ in range(num):
            with region("router"):  # what drafting costs is read from this region
                state = self._begin(token, cache)
                states.append(state.x)
                drafts.append(self.trunk.head(state)[:, -1])
                token = drafts[-1].argmax(-1)
            cache.length += 1
        state = self._begin(token, cache)
        places = torch.arange(begin, begin + num + 1, device=token.device)
        x = torch.cat([*states, state.x], 1)
        return drafts, replace(state, x=x, positions=places.expand(len(token), -1))

    def _begin(self, token: Tensor, cache: Cache) -> State:
        """The state of one more token [B] after the first blocks."""
        inputs = token[:, None]
        state = self.trunk.begin(Batch(inputs, inputs), cache)
        return _run(self._blocks[: self.num_draft_blocks], state)

    def _verify(self, state: State) -> Tensor:
        """The full model's next token after each token of `state`, [B, T]."""
        state = _run(self._blocks[self.num_draft_blocks :], state)
        return self.trunk.head(state).argmax(-1)

    def _count_accepted(self, drafts: list[Tensor], tokens: Tensor) -> int:
        """Leading drafts that are the full model's tokens in every sample of the batch."""
        if not drafts:
            return 0
        with region("router"):
            logits = torch.stack(drafts, 1)  # [B, drafts, C]
            right = logits.argmax(-1) == tokens[:, :-1]
            accepted = decide(
                "accepted",
                axes=TOKENS,
                probabilities=logits.softmax(-1).amax(-1),
                run=right.cumprod(1).bool(),
                cost=0.0,
                observed_only=True,
            )
            return int(accepted.sum(1).min())

    @property
    def _blocks(self) -> list[Any]:
        return list(self.trunk.blocks)


def _run(blocks: Sequence[Any], state: State) -> State:
    for block in blocks:
        state = block(state)
    return state


def dropout_rates(depth: int, most: float) -> list[float]:
    """p(l) = `most` (exp(l ln 2 / (L - 1)) - 1): 0 for the first block, `most` for the last."""
    return [most * (exp(number * log(2) / max(1, depth - 1)) - 1) for number in range(depth)]


def exit_weights(depth: int, scale: float, taught: frozenset[int]) -> Mapping[int, float]:
    """The share of each block of `taught` in the loss, and of the last one; they sum to 1.

    e(l) = `scale` (0 + 1 + ... + l), of the last block L - 1 + `scale` (0 + 1 + ... + L - 2).
    """
    last = depth - 1
    weights = {number: scale * number * (number + 1) / 2 for number in taught if number < last}
    weights[last] = last + scale * last * (last - 1) / 2
    total = sum(weights.values())
    return {number: weight / total if total else 1.0 for number, weight in weights.items()}
