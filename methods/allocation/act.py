"""Adaptive computation time: one shared block runs until a token's halting probabilities sum to 1.

Graves 2016, "Adaptive Computation Time for Recurrent Neural Networks"; over the depth of a
transformer with shared weights: Dehghani et al. 2019, "Universal Transformers". After step n a unit
reads the token's state,

    h^n = sigmoid(w x^n + b),    N = min{n: h^1 + ... + h^n >= 1 - eps},    N = R at the latest.

The token leaves with the mean of its states, sum_n p^n x^n, with p^n = h^n before N and the rest,
1 - sum_{n < N} h^n, at N: the weights sum to 1. The loss adds the ponder cost, the mean of N + p^N,
times its weight. A learned vector per step is added to the state before the block.

No step runs on a token that has halted, and no token attends to it any more. Training skips too:
the decision itself has no gradient, and w learns through the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Output, Point, Range, TaskSpec, Unsupported
from methods.parts.shifts import Shift, first_samples
from methods.parts.tokens.halting import EPSILON, Halting, advance, begin
from methods.parts.tokens.running_tokens import num_held, run_blocks
from methods.trunk.cache import Cache
from methods.trunk.costs import cost_of_tokens
from methods.trunk.decoding import greedy
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


@dataclass
class ACT:
    """The backbone's first block, shared by all steps; trained from scratch.

    `max_steps`: R, null for the backbone's depth. `ponder_weight` is the price of a step. An
    operating point is a budget: the largest mean share of the steps after the first that a token
    runs on held-out data, met by a shift of the halting logits in the decisions alone.
    """

    compaction = "after every step the tokens that halted are left out of the next ones"

    budgets: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.7, 1.0, 0.85, 0.55, 0.4, 0.3, 0.2]
    )
    max_steps: Annotated[int | None, Range(2)] = None
    ponder_weight: Annotated[float, Range(0)] = 0.01

    def __post_init__(self) -> None:
        """Raises ValueError without a budget: the first one is the default operating point."""
        if not self.budgets:
            raise ValueError("budgets is empty: give at least one, such as [0.7]")

    def build(self, spec: TaskSpec, backbone: Backbone) -> PonderingTrunk:
        """The untrained backbone with its first block in all steps."""
        return PonderingTrunk(backbone.build(spec), self)

    def calibrate(self, model: PonderingTrunk, batches: Iterable[Batch]) -> None:
        """Find every budget's shift on held-out batches; sets the default point."""
        held_out = first_samples(batches)
        model.shift.fit(lambda: model.share_running(held_out))

    def points(self) -> list[Point]:
        """One operating point per budget, the default first."""
        return [{"budget": budget} for budget in self.budgets]

    def set_point(self, model: PonderingTrunk, point: Point) -> None:
        """Use a budget's shift. Raises ValueError for a budget that is not among `budgets`."""
        model.shift.use(float(point["budget"]))


class PonderingTrunk(nn.Module):
    """`trunk` with one block, run up to R times.

    Raises Unsupported where the state is not a row of tokens, and where no step could be left out.
    """

    def __init__(self, trunk: Trunk, settings: ACT) -> None:
        super().__init__()
        if not trunk.tokens:
            raise Unsupported("act halts tokens; this trunk works on feature maps")
        self.num_steps = settings.max_steps or len(trunk.blocks)
        if self.num_steps < 2:
            raise Unsupported("act needs a second step: give max_steps, or a deeper backbone")
        self.settings, self.cost = settings, trunk.block_costs()[0]
        trunk.blocks = nn.ModuleList([trunk.blocks[0]])
        self.trunk, self.shift = trunk, Shift(settings.budgets)
        self.halt = nn.Linear(trunk.dim, 1)
        nn.init.normal_(self.halt.weight, std=0.02)
        # h = 1 / R at first: untrained, the probabilities reach 1 with the last step.
        nn.init.constant_(self.halt.bias, -math.log(self.num_steps - 1))
        self.steps = nn.Parameter(torch.zeros(self.num_steps, trunk.dim))

    def share_running(self, batches: Iterable[Batch]) -> float:
        """The share of the steps after the first that run on a token, over all of `batches`."""
        ran = could = 0
        for batch in batches:
            depth = self(batch).stats["depth"]
            ran += int(depth.clamp_min(0).sum())
            could += int((depth >= 0).sum()) * (self.num_steps - 1)
        return ran / max(could, 1)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """In training `aux_loss` holds the ponder cost.

        With a cache `batch` holds the next tokens, and logits are the last one's only. `stats`:
        `depth` [B, T], how many steps after the first ran on each token, -1 for padding; `weights`
        [R, B, T] of each token's states.
        """
        first = self.trunk.begin(batch, cache)
        real = first.real_tokens()
        if real is None:
            real = torch.ones(first.x.shape[:2], dtype=torch.bool, device=first.x.device)
        at, weights = begin(real), list[Tensor]()
        out, depth = torch.zeros_like(first.x), real.long() - 1
        state = replace(first, mask=None, routed=None)  # padding is never live
        for number in range(self.num_steps):
            state = replace(state, x=state.x + self.steps[number].to(state.x.dtype))
            if cache is not None:
                state = replace(state, cache=cache.step(number))
            state, left = run_blocks(self.trunk.blocks, state, at.live), at.left
            with routing.region("router"):
                at = self._advance(number, at, state, cache)
                depth = depth + at.live
                weights.append(left - at.left)  # the sum over the steps is 1
            with routing.region("combine"):
                out = torch.addcmul(out, weights[-1][..., None].to(out.dtype), state.x)
        if cache is not None:
            out = out[:, -1:]
        logits = self.trunk.head(replace(first, x=out))
        stats = {"depth": depth, "weights": torch.stack(weights)}
        price = self._price(depth, stats["weights"]) if self.training else 0.0
        return Output(logits, state.aux_loss + price, stats)

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        """The likeliest next tokens, one by one; see `methods.trunk.decoding`."""
        return greedy(self, self.trunk.spec, prompt, num_tokens)

    def _advance(self, number: int, at: Halting, state: State, cache: Cache | None) -> Halting:
        """How far tokens have come after step `number`."""
        if number + 1 == self.num_steps:  # every token leaves with all it has
            return Halting(at.live & False, at.total, at.left * 0)
        logit = self.halt(state.x)[..., 0].float()  # [B, T]
        # A budget shifts the decisions, and not the weights, with which the head has learned.
        total = at.total + (logit.detach() - self.shift.value).sigmoid()
        block: Any = self.trunk.blocks[0]
        score = logit.sigmoid()
        run = routing.decide(
            f"halt{number}",
            axes=routing.TOKENS,
            probabilities=1 - score,
            run=at.live & (total < 1 - EPSILON),
            cost=cost_of_tokens(block, self.cost, state.memory),
            eligible=at.live,
            past=lambda: (
                None
                if cache is None
                else num_held(block, replace(state, cache=cache.step(number + 1)))
            ),
        )
        return advance(at, run, score, total)

    def _price(self, depth: Tensor, weights: Tensor) -> Tensor:
        """The weighted ponder cost, a mean over real tokens; shapes as in `forward`."""
        real = depth >= 0
        remainder = weights.gather(0, depth.clamp_min(0)[None])[0]  # p of the last step that ran
        ponder = ((depth + 1 + remainder) * real).sum() / real.sum().clamp_min(1)
        return self.settings.ponder_weight * ponder
