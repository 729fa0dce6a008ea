"""EViT: inattentive tokens are fused into one, by the class token's attention.

Liang et al. 2022, "Not All Patches are What You Need: Expediting Vision Transformers via Token
Reorganizations" (ICLR). In some blocks, between attention and feed-forward layer, the
ceil(rho (N - 1)) of the N - 1 tokens to which the class token attends most are kept; the others
become one,

    x_fused = sum_i a_i x_i  over the tokens i that are not kept,

with a_i the attention of the class token to token i, the mean over heads. The fused token is one
among others in later blocks. In training the keep rate goes from 1 to rho along half a cosine.

Without a class token, where the head reads the mean, a_i is the attention that token i receives,
the mean over all tokens and heads: as many scores again as attention itself computes.

Letters in shapes: B samples, N tokens before the reduction, K that are kept, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.routing import Decision, Observation, is_watched, region
from bench.types import Backbone, Batch, Criterion, Point, Range, TaskSpec, Unsupported
from methods.parts.tokens.reduction import (
    ReducedTrunk,
    compact,
    count_tokens,
    live_tokens,
    places_of,
    positions_at,
)
from methods.trunk.attention import AttentionView
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

WARM_UP, SETTLED = 0.1, 0.5  # shares of training: until then every token is kept, or the rate moves


@dataclass
class EViT:
    """Three blocks keep the share `keep_rate` of their tokens and fuse the others.

    `blocks` are their numbers; empty: a quarter, half and three quarters down the trunk, as blocks
    3, 6 and 9 of the paper's 12. The operating points are `keep_rate` and `more_keep_rates`.
    """

    compaction = "the same number of tokens of every sample, gathered"
    open_is_dense = True

    keep_rate: Annotated[float, Range(gt=0, le=1)] = 0.7
    more_keep_rates: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.9, 0.8, 0.6, 0.5, 0.4, 0.3]
    )
    blocks: list[Annotated[int, Range(0)]] = field(default_factory=list)
    train_share: Annotated[float, Range(0)] = 0.1  # the paper fine-tunes 30 of 300 epochs

    def build(self, spec: TaskSpec, backbone: Backbone) -> FusedTrunk:
        """The untrained backbone that fuses tokens."""
        return self._fuse(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> FusedTrunk:
        """A copy of the trained trunk that fuses tokens."""
        return self._fuse(deepcopy(dense))

    def _fuse(self, trunk: Trunk) -> FusedTrunk:
        return FusedTrunk(trunk, self._stages(trunk), self.keep_rate)

    def _stages(self, trunk: Trunk) -> tuple[int, ...]:
        """The blocks that fuse. Raises Unsupported for a number that the trunk does not have."""
        depth = len(trunk.blocks)
        if self.blocks and max(self.blocks) >= depth:
            raise Unsupported(f"blocks={self.blocks}: this trunk has blocks 0 to {depth - 1}")
        return tuple(sorted({*(self.blocks or (depth * part // 4 for part in (1, 2, 3)))}))

    def loss(
        self, model: FusedTrunk, batch: Batch, criterion: Criterion, progress: float
    ) -> Tensor:
        """The task's loss at the keep rate of this `progress` in 0..1."""
        model.training_rate = annealed(self.keep_rate, progress)
        output = model(batch)
        return criterion(output, batch) + output.aux_loss

    def points(self) -> list[Point]:
        """One operating point for each keep rate, the default first."""
        others = (rate for rate in self.more_keep_rates if rate != self.keep_rate)
        return [{"keep_rate": rate} for rate in (self.keep_rate, *others)]

    def set_point(self, model: FusedTrunk, point: Point) -> None:
        """Keep the share `point["keep_rate"]` in each of the blocks."""
        model.keep_rate = float(point["keep_rate"])

    def tokens_left(self, trunk: Trunk, point: Point) -> list[int]:
        """The tokens of `trunk` after each block's attention at an operating point."""
        left, found = count_tokens(trunk), []
        stages = self._stages(trunk)
        for number in range(len(trunk.blocks)):
            if number in stages:
                num_kept = num_to_keep(left - trunk.class_token, float(point["keep_rate"]))
                left = min(left, trunk.class_token + num_kept + 1)  # the fused token
            found.append(left)
        return found

    def declared_flops(self, model: FusedTrunk, observation: Observation) -> float:
        """FLOPs of the blocks, the scores and the sums at the lengths that are left."""
        return model.declared_flops(observation)


def annealed(keep_rate: float, progress: float) -> float:
    """1 until WARM_UP, then along half a cosine to `keep_rate` at SETTLED."""
    moved = min(max((progress - WARM_UP) / (SETTLED - WARM_UP), 0.0), 1.0)
    return keep_rate + (1 - keep_rate) * (1 + math.cos(math.pi * moved)) / 2


def num_to_keep(num_tokens: int, keep_rate: float) -> int:
    """ceil(rho n) of n tokens that may leave."""
    return math.ceil(keep_rate * num_tokens - 1e-9)  # 0.7 x 10 is a little more than 7 in floats


class FusedTrunk(ReducedTrunk):
    """A trunk that keeps the share `keep_rate` of the tokens in `stages` and fuses the others.

    In training mode the share is `training_rate`, which the loss moves.
    """

    verb = "fuse"
    adds_a_token = True

    def __init__(self, trunk: Trunk, stages: tuple[int, ...], keep_rate: float) -> None:
        super().__init__(trunk)
        self.stages = stages
        self.keep_rate = self.training_rate = keep_rate

    def make_view(self) -> AttentionView:
        return AttentionView(with_scores=self.trunk.class_token)

    def deciding_flops(self, lengths: Tensor, reduces: Tensor) -> Tensor:
        """2 D for every score, of one query or of all, and 2 D a token for the fused sum."""
        num_queries = 1 if self.trunk.class_token else lengths
        return 2 * self.trunk.dim * lengths * (num_queries + reduces)

    def reduce(self, number: int, state: State, view: Any) -> State:
        """Score, decide and fuse."""
        first = int(self.trunk.class_token)
        rate = self.training_rate if self.training else self.keep_rate
        num_kept = num_to_keep(state.x.shape[1] - first, rate)
        with region("router"):
            scores = view.class_scores.mean(1) if first else attention_received(view, state.mask)
            # The class token ranks first of all and so is always kept.
            ranks = F.pad(scores[:, 1:], (1, 0), value=torch.inf) if first else scores
            ranked = ranks.argsort(1, descending=True)  # [B, N]
            kept, rest = ranked[:, : num_kept + first], ranked[:, num_kept + first :]
            forced = None
            if state.mask is not None or is_watched():
                own, decision = self._decide(number, state, scores, kept, rest)
                if state.mask is not None or decision.run is not own:
                    forced = decision
        with region("combine"):
            if forced is not None:
                return self._fuse_ragged(state, forced, scores)
            if not rest.shape[1]:
                return state
            fused = attention_sum(scores.scatter(1, kept, 0.0), state.x)  # [B, D]
            # The most attended token that leaves gives its position to the fused one.
            taken = state.take(ranked[:, : num_kept + first + 1])
            taken.x[:, -1] = fused
            return taken

    def _decide(
        self, number: int, state: State, scores: Tensor, kept: Tensor, rest: Tensor
    ) -> tuple[Tensor, Decision]:
        """The model's own `run` [B, N], and the decision to obey."""
        eligible = self.eligible(state)
        run = torch.zeros_like(eligible).scatter(1, kept, True) & eligible
        into = torch.arange(scores.shape[1], device=scores.device).repeat(len(scores), 1)
        if rest.shape[1]:
            into.scatter_(1, rest, rest[:, :1].expand_as(rest))
        payload = positions_at(state, into)
        return run, self.announce(number, state, scores, run, eligible, payload)

    def _fuse_ragged(self, state: State, decision: Decision, scores: Tensor) -> State:
        """Fuse what a forced or replayed decision says, a different number in each sample."""
        assert decision.eligible is not None
        leaves = decision.eligible & ~decision.run
        if not leaves.any():
            return state
        fused = attention_sum(scores * leaves, state.x)  # [B, D]
        heaviest = scores.masked_fill(~leaves, -torch.inf).argmax(1, keepdim=True)  # [B, 1]
        if decision.payload is not None:  # the recording's fused token
            recorded = places_of(state, decision.payload, self.num_tokens)
            known = leaves & (decision.payload >= 0)
            first = known.byte().argmax(1, keepdim=True)
            heaviest = torch.where(known.any(1, keepdim=True), recorded.gather(1, first), heaviest)
        at_place = torch.zeros_like(leaves).scatter(1, heaviest, leaves.any(1, keepdim=True))
        x = torch.where(at_place[..., None], fused[:, None].to(state.x.dtype), state.x)
        stays = live_tokens(state) & ~leaves | at_place
        return compact(state.with_x(x), stays, at_place.long())  # the fused token comes last


def attention_sum(weights: Tensor, x: Tensor) -> Tensor:
    """sum_i a_i x_i of `weights` [B, N] and `x` [B, N, D]: [B, D]."""
    return torch.bmm(weights.to(x.dtype)[:, None], x)[:, 0].to(x.dtype)


def attention_received(view: AttentionView, mask: Tensor | None) -> Tensor:
    """The attention that each token receives, the mean over heads and over all queries [B, N]."""
    assert view.queries is not None
    assert view.keys is not None
    queries, keys = view.queries, view.keys  # [B, heads or fewer, N, d]
    if keys.shape[1] < queries.shape[1]:  # heads that share their keys
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
    scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5  # [B, heads, N, N]
    if mask is None:
        return scores.softmax(-1).mean((1, 2))
    weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1).mean(1)
    return (weights * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
