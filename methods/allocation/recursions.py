"""Mixture-of-Recursions: shared blocks run up to R times; a router decides how often, per token.

Bae et al. 2025, "Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level
Computation". The first and the last block have weights of their own; between them one group of
blocks f runs R times ("middle cycle"). Two routers:

    expert choice   before recursion r = 0, 1, ..., of the tokens that are left those with the
                    highest scores s = w_r x go on, (R - r) / R of all; x <- x + g (f(x) - x),
                    g = 2 sigmoid(s)
    token choice    after the first block p = softmax(W x) over depths; a token runs
                    argmax p of them, and leaves with x^0 + g (x - x^0), g = R p of its depth

g is 1 for a router of zeros (the paper's scale differs), and through g the router learns. Tokens
that run a recursion attend to one another only, and with a cache to the earlier ones that ran it
(recursion-wise caching); the others pass unchanged.

The highest scores of a sequence depend on later tokens. In decoders they are therefore used in
training only, where a loss teaches the scores to be positive for what goes on; at inference a score
must exceed a threshold, which is a quantile found on held-out batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, OneOf, Output, Point, Range, TaskSpec, Unsupported
from methods.parts.allocation.elements import as_number
from methods.parts.gates import balance_loss
from methods.parts.ranges import counts_up_to
from methods.parts.tokens.running_tokens import num_held, run_blocks
from methods.trunk.cache import Cache
from methods.trunk.costs import cost_of_tokens
from methods.trunk.decoding import greedy
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


@dataclass
class Recursions:
    """Trained from scratch; every pass skips, in training too.

    `router`: expert or token choice. `group`: blocks that are repeated together. `num_recursions`:
    R; with the default a token runs 2 + 4 blocks at most, the depth of the default transformer.
    `imitation_weight`: of the loss that teaches a decoder's scores, `balance_weight`: of the load
    balance over depths, for token choice. An operating point is the largest number of recursions
    that a token may run.
    """

    compaction = "in every recursion the tokens that run it are gathered"

    router: Annotated[str, OneOf("expert", "token")] = "expert"
    group: Annotated[int, Range(1)] = 1
    num_recursions: Annotated[int, Range(2)] = 4
    imitation_weight: Annotated[float, Range(0)] = 0.1
    balance_weight: Annotated[float, Range(0)] = 0.1

    def build(self, spec: TaskSpec, backbone: Backbone) -> RecursiveTrunk:
        """The untrained backbone, its inner blocks replaced by one group."""
        return RecursiveTrunk(backbone.build(spec), self)

    def calibrate(self, model: RecursiveTrunk, batches: Iterable[Batch]) -> None:
        """In a decoder with expert choice, find the thresholds that let each share go on."""
        if self.router == "expert" and model.causal:
            model.fit_thresholds(list(batches))
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """One operating point per number of recursions, all of them first."""
        counts = counts_up_to(self.num_recursions, self.num_recursions)
        return [{"recursions": count} for count in counts]

    def set_point(self, model: RecursiveTrunk, point: Point) -> None:
        """Run at most `point["recursions"]` recursions on a token from now on."""
        model.limit.fill_(int(point["recursions"]))


class Routed(NamedTuple):
    """What routers gave for the tokens [B, T] of a pass."""

    scores: list[Tensor]  # of each recursion, as far as routing has come; of token choice none
    live: list[Tensor]  # bool: the tokens that could go on into each
    run: list[Tensor]  # bool: those that did
    depths: Tensor | None  # token choice: probabilities [B, T, R]


class RecursiveTrunk(nn.Module):
    """`trunk` whose inner blocks are one group, run up to R times.

    Raises Unsupported where the state is not a row of tokens, or there are too few blocks.
    """

    limit: Tensor
    thresholds: Tensor  # [R], of scores

    def __init__(self, trunk: Trunk, settings: Recursions) -> None:
        super().__init__()
        if not trunk.tokens:
            raise Unsupported("recursions route tokens; this trunk works on feature maps")
        if len(trunk.blocks) < settings.group + 2:
            raise Unsupported(
                f"recursions keep the first and the last block and repeat group={settings.group}"
                f" between them; this trunk has {len(trunk.blocks)}"
            )
        self.settings, self.num_recursions = settings, settings.num_recursions
        # A decoder of pairs is causal, too, though its task as a whole is not.
        self.causal = trunk.spec.causal or trunk.spec.kind == "seq2seq"
        end = 1 + settings.group
        self.costs = trunk.block_costs()[1:end]
        trunk.blocks = nn.ModuleList([*trunk.blocks[:end], trunk.blocks[-1]])
        self.trunk = trunk
        # Expert choice: one score per recursion. Token choice: one logit per depth.
        self.router = nn.Linear(trunk.dim, self.num_recursions, bias=False)
        nn.init.normal_(self.router.weight, std=0.02)
        self.register_buffer("limit", torch.tensor(self.num_recursions))
        self.register_buffer("thresholds", torch.zeros(self.num_recursions))

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Logits; with a cache `batch` holds the next tokens, and they are the last one's only.

        `stats`: `routed`, what the routers gave. In training `aux_loss` holds their losses.
        """
        first, *_, last = self.trunk.blocks
        state = first(self.trunk.begin(batch, cache))
        real = state.real_tokens()
        if real is None:
            real = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
        route = self._expert_choice if self.settings.router == "expert" else self._token_choice
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

    # Routing

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

    def _price(self, routed: Routed, real: Tensor) -> Tensor:
        """The routers' losses: imitation of what was picked, or balance over depths."""
        if routed.depths is not None:
            chosen = F.one_hot(routed.depths.argmax(-1), self.num_recursions).bool()
            balance = balance_loss(routed.depths[real], chosen[real])
            return self.settings.balance_weight * balance
        loss = self.router.weight.new_zeros(())
        if not self.causal:  # picks by itself at inference, too
            return loss
        for score, live, run in list(zip(*routed[:3], strict=True))[1:]:
            found = F.binary_cross_entropy_with_logits(score, run.to(score), reduction="none")
            loss = loss + (found * live).sum() / live.sum().clamp_min(1)
        return self.settings.imitation_weight * loss
