"""Mixture-of-Recursions as a model: a router decides how often a token runs the shared group.

Expert choice: before every recursion the group takes tokens. Token choice: the router gives every
token its depth at once. Equations: `methods.allocation.recursions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.types import Batch, Output
from methods.parts.allocation.shared_group import SharedGroup
from methods.parts.gates import balance_loss
from methods.trunk.cache import Cache
from methods.trunk.decoding import greedy
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


@dataclass(frozen=True)
class LossWeights:
    """Of the routers' losses: `imitation` teaches a decoder's scores, `balance` spreads depths."""

    imitation: float
    balance: float


class Routed(NamedTuple):
    """What routers gave for the tokens [B, T] of a pass."""

    scores: list[Tensor]  # of each recursion, as far as routing has come; of token choice none
    live: list[Tensor]  # bool: the tokens that could go on into each
    run: list[Tensor]  # bool: those that did
    depths: Tensor | None  # token choice: probabilities [B, T, R]


class RecursiveTrunk(SharedGroup):
    """`trunk` whose inner blocks are one group, run up to R times.

    `by_experts`: expert choice, else token choice. Raises Unsupported as `SharedGroup` does.
    """

    thresholds: Tensor  # [R], of scores

    def __init__(
        self,
        trunk: Trunk,
        group: int,
        num_recursions: int,
        *,
        by_experts: bool,
        weights: LossWeights,
    ) -> None:
        super().__init__(trunk, group, num_recursions)
        self.by_experts, self.weights = by_experts, weights
        # A decoder of pairs is causal, too, though its task as a whole is not.
        self.causal = trunk.spec.causal or trunk.spec.kind == "seq2seq"
        # Expert choice: one score per recursion. Token choice: one logit per depth.
        self.router = nn.Linear(trunk.dim, num_recursions, bias=False)
        nn.init.normal_(self.router.weight, std=0.02)
        self.register_buffer("thresholds", torch.zeros(num_recursions))

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits; with a cache `batch` holds the next tokens, and they are the last one's only.

        `stats`: `routed`, what the routers gave. In training `aux_loss` holds their losses.
        """
        first, *_, last = self.trunk.blocks
        state = first(self.trunk.begin(batch, cache))
        real = state.real_tokens()
        if real is None:
            real = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
        route = self._expert_choice if self.by_experts else self._token_choice
        # Padding never runs, and masks do not fit packed tokens.
        bare = replace(state, mask=None, routed=None)
        x, aux_loss, routed = route(bare, real, cache)
        price = self._price(routed, real) if self.training else 0.0
        state = last(replace(state, x=x, aux_loss=aux_loss))
        if cache is not None:
            state = replace(state, x=state.x[:, -1:])
        return Output(self.trunk.head(state), state.aux_loss + price, {"routed": routed})

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens, one by one; see `methods.trunk.decoding`."""
        return greedy(self, self.trunk.spec, prompt, num_tokens)

    @torch.no_grad()
    def fit_thresholds(self, batches: list[Batch]) -> None:
        """Set thresholds that let each recursion's share of the tokens of `batches` go on."""
        for number in range(1, self.num_recursions):
            # One after the other: what goes on depends on the thresholds before.
            passes = [self(batch).stats["routed"] for batch in batches]
            scores = torch.cat([p.scores[number][p.live[number]] for p in passes]).sort().values
            capacity = self._capacity(number) / self._capacity(number - 1)
            num_left_out = len(scores) - round(capacity * len(scores))
            if 0 < num_left_out < len(scores):
                # Halfway between two tokens, so that rounding flips no decision.
                self.thresholds[number] = scores[num_left_out - 1 : num_left_out + 1].mean()

    def _expert_choice(
        self, state: State, real: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Any, Routed]:
        """x and auxiliary loss after all recursions; the routers pick tokens before each."""
        live, routed = real, Routed([], [], [], None)
        for number in range(self.num_recursions):
            with routing.region("router"):
                score = self.router(state.x)[..., number].float()  # [B, T]
                own = live if number == 0 else self._picked(number, score, live, real)
                run = self._decide(number, state, cache, score.sigmoid(), own, live)
            for part, value in zip(routed, (score, live, run), strict=False):
                part.append(value)  # type: ignore[union-attr]
            before, state = state.x, self._recur(number, state, run, cache)
            with routing.region("combine"):
                gate = torch.where(run, 2 * score.sigmoid(), 0.0).to(before.dtype)
                state = state.with_x(torch.lerp(before, state.x, gate[..., None]))
            live = run
        return state.x, state.aux_loss, routed

    def _token_choice(
        self, state: State, real: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Any, Routed]:
        """x and auxiliary loss after all recursions; the router has chosen every token's depth."""
        with routing.region("router"):
            depths = self.router(state.x).float().softmax(-1)  # [B, T, R]
            chosen = depths.argmax(-1)
        start, out, live = state.x, state.x, real
        routed = Routed([], [], [], depths)
        run = real  # the first recursion runs on every token
        for number in range(self.num_recursions):
            routed.live.append(live)
            routed.run.append(run)
            state = self._recur(number, state, run, cache)
            live = run
            if number + 1 < self.num_recursions:
                with routing.region("router"):
                    deeper = depths[..., number + 1 :].sum(-1)
                    own = live & (chosen > number)
                    run = self._decide(number + 1, state, cache, deeper, own, live)
            else:
                run = live & False
            with routing.region("combine"):
                # Weighted by the probability of the depth that the token has come to.
                gate = (self.num_recursions * depths[..., number, None]).to(start.dtype)
                done = torch.lerp(start, state.x, gate)
                out = torch.where((live & ~run)[..., None], done, out)
        return out, state.aux_loss, routed

    def _picked(self, number: int, score: Tensor, live: Tensor, real: Tensor) -> Tensor:
        """The tokens of `live` [B, T] that recursion `number` takes by itself."""
        if self.causal and not self.training:
            return live & (score > self.thresholds[number])
        numbers = torch.ceil(real.sum(1) * self._capacity(number) - 1e-6)  # [B]
        rank = score.masked_fill(~live, -torch.inf).argsort(1, descending=True).argsort(1)
        return live & (rank < numbers[:, None])

    def _capacity(self, number: int) -> float:
        """The share of all tokens that recursion `number` takes."""
        return (self.num_recursions - number) / self.num_recursions

    def _price(self, routed: Routed, real: Tensor) -> Tensor:
        """The routers' losses: imitation of what was picked, or balance over depths."""
        if routed.depths is not None:
            chosen = F.one_hot(routed.depths.argmax(-1), self.num_recursions).bool()
            balance = balance_loss(routed.depths[real], chosen[real])
            return self.weights.balance * balance
        loss = self.router.weight.new_zeros(())
        if not self.causal:  # picks by itself at inference, too
            return loss
        for score, live, run in list(zip(*routed[:3], strict=True))[1:]:
            found = F.binary_cross_entropy_with_logits(score, run.to(score), reduction="none")
            loss = loss + (found * live).sum() / live.sum().clamp_min(1)
        return self.weights.imitation * loss
