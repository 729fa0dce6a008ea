"""Token Merging: after every block's attention the most similar pairs of tokens become one.

Bolya et al. 2023, "Token Merging: Your ViT But Faster" (ICLR). Between a block's attention and its
feed-forward layer the tokens are dealt alternately into sets A and B. Every token a of A proposes
its most similar b of B, by the cosine of their keys averaged over heads; the r best proposals are
merged into b as means weighted by size,

    x_b <- (s_b x_b + sum_a s_a x_a) / S,    s_b <- S = s_b + sum_a s_a

and in attention a token weighs as many as it stands for: softmax(Q K^T / sqrt(d) + log s)
(equation 1, `methods.trunk.block`). The class token is never merged. Nothing has to be trained.

Letters in shapes: B samples, N tokens before the block's merge, r that leave, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from bench.routing import Decision, Observation, is_watched, region
from bench.types import Backbone, Batch, OneOf, Point, Range, TaskSpec, Unsupported
from methods.parts.tokens.reduction import (
    ReducedTrunk,
    compact,
    count_tokens,
    live_tokens,
    places_of,
    positions_at,
)
from methods.trunk.attention import AttentionView
from methods.trunk.state import State, flat_places
from methods.trunk.trunk import Trunk

NO_LENGTH = 1e-12  # below it a vector has no direction, as in torch's `normalize`


@dataclass
class ToMe:
    """Every block merges tokens, so that the share `kept` of them is left after the last block.

    `schedule=constant`: the same number r in every block, (1 - kept) T / depth of T tokens (the
    paper's r = 8 on DeiT's 197 is kept = 0.51, r = 13 is 0.21); `decreasing`: from 2 r in the first
    block to 0 in the last. A block merges half of its tokens at most. The operating points are
    `kept` and `more_kept`.
    """

    compaction = "the same number of tokens of every sample, merged"
    open_is_dense = True

    kept: Annotated[float, Range(gt=0, le=1)] = 0.5
    more_kept: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.25]
    )
    schedule: Annotated[str, OneOf("constant", "decreasing")] = "constant"
    train_share: Annotated[float, Range(0)] = 0.0

    def build(self, spec: TaskSpec, backbone: Backbone) -> MergedTrunk:
        """The untrained backbone with merging."""
        return self._merge(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> MergedTrunk:
        """A copy of the trained trunk with merging."""
        return self._merge(deepcopy(dense))

    def _merge(self, trunk: Trunk) -> MergedTrunk:
        """`trunk` with merging at the first point. Raises Unsupported as `num_merged` does."""
        model = MergedTrunk(trunk)
        for point in reversed(self.points()):  # all are tried here, before anything is trained
            self.set_point(model, point)
        return model

    def points(self) -> list[Point]:
        """One operating point for each share of tokens that is left, the default first."""
        return [{"kept": k} for k in (self.kept, *(k for k in self.more_kept if k != self.kept))]

    def set_point(self, model: MergedTrunk, point: Point) -> None:
        """Merge until the share `point["kept"]` is left."""
        model.set_schedule(self._numbers(model.trunk, model.num_tokens, float(point["kept"])))

    def tokens_left(self, trunk: Trunk, point: Point) -> list[int]:
        """The tokens of `trunk` after each block's attention at an operating point."""
        left = num_tokens = count_tokens(trunk)
        numbers = self._numbers(trunk, num_tokens, float(point["kept"]))
        return [left := left - number for number in numbers]

    def _numbers(self, trunk: Trunk, num_tokens: int, kept: float) -> list[int]:
        decreasing = self.schedule == "decreasing"
        return num_merged(
            num_tokens, len(trunk.blocks), kept, decreasing=decreasing, fixed=trunk.class_token
        )

    def declared_flops(self, model: MergedTrunk, observation: Observation) -> float:
        """FLOPs of the blocks and of the matching at the lengths that the merges leave."""
        return model.declared_flops(observation)


def num_merged(
    num_tokens: int, depth: int, kept: float, *, decreasing: bool, fixed: bool
) -> list[int]:
    """How many tokens each of `depth` blocks merges, so that the share `kept` is left at the end.

    `fixed`: one token, the class token, cannot be merged.
    Raises Unsupported for a schedule that merges more tokens than a block has pairs.
    """
    total = round((1 - kept) * num_tokens)
    # Of the total, done after each block: rounding the sums keeps their end exact.
    if decreasing:  # 2 r (1 - i / (depth - 1)) in block i
        steps = [depth - 1 - block for block in range(depth)] if depth > 1 else [1]
    else:
        steps = [1] * depth
    done = [round(total * sum(steps[: block + 1]) / sum(steps)) for block in range(depth)]
    numbers = [after - before for before, after in zip([0, *done], done, strict=False)]
    for block, number in enumerate(numbers):
        left = num_tokens - sum(numbers[:block])
        if number > (left - fixed) // 2:
            raise Unsupported(
                f"kept={kept} merges {number} of the {left} tokens in block {block}, more than the "
                f"{(left - fixed) // 2} pairs there are; use a larger share or schedule=constant"
            )
    return numbers


class MergedTrunk(ReducedTrunk):
    """A trunk that merges `numbers[i]` tokens after block i's attention."""

    verb = "merge"

    def set_schedule(self, numbers: list[int]) -> None:
        """Merge these numbers of tokens from now on, one for each block."""
        self.numbers = numbers
        self.stages = tuple(block for block, number in enumerate(numbers) if number)

    def make_view(self) -> AttentionView:
        return AttentionView()

    def deciding_flops(self, lengths: Tensor, reduces: Tensor) -> Tensor:
        """2 d FLOPs for each pair of a token in A and one in B."""
        attention: Any = self.trunk.blocks[0]
        width = self.trunk.dim // attention.attention.num_heads
        return 2 * width * ((lengths + 1) // 2) * (lengths // 2)

    def reduce(self, number: int, state: State, view: Any) -> State:
        """Match, decide and merge."""
        if state.x.shape[1] < 2 + self.trunk.class_token:  # no pair: forced decisions only
            return state
        with region("router"):
            best, partner = match(view.keys, state.mask)  # both [B, A]
            if self.trunk.class_token:
                best[:, 0].fill_(-torch.inf)  # the last in order
            order = best.argsort(1, descending=True)
            leave = order[:, : self.numbers[number]]  # [B, r], numbers in A
            into = partner.gather(1, leave)  # numbers in B
            forced = None
            if state.mask is not None or is_watched():
                own, decision = self._decide(number, state, best, leave, into)
                if state.mask is not None or decision.run is not own:
                    forced = decision
        with region("combine"):
            if forced is not None:
                return self._merge_ragged(state, forced, partner)
            stay = order[:, self.numbers[number] :].sort(1).values  # the class token first
            return merge_equally(state, stay, leave, into)

    def _decide(
        self, number: int, state: State, best: Tensor, leave: Tensor, into: Tensor
    ) -> tuple[Tensor, Decision]:
        """The model's own `run` [B, N], A's tokens that stay, and the decision to obey."""
        places = torch.arange(state.x.shape[1], device=best.device)
        eligible = self.eligible(state) & (places % 2 == 0)  # those of B are merged into
        if state.mask is not None:  # a sample with one token left has nothing to merge into
            eligible = eligible & (best.amax(1, keepdim=True) > -torch.inf)
        run = eligible.scatter(1, 2 * leave, False)
        likeness = best.new_zeros(run.shape)
        likeness[:, ::2] = best.clamp_min(-1)
        partner = places.expand(run.shape).scatter(1, 2 * leave, 2 * into + 1)
        payload = positions_at(state, partner)
        return run, self.announce(number, state, 1 - likeness, run, eligible, payload)

    def _merge_ragged(self, state: State, decision: Decision, partner: Tensor) -> State:
        """Merge what a forced or replayed decision says, a different number in each sample."""
        assert decision.eligible is not None
        leaves = decision.eligible & ~decision.run
        places = torch.arange(leaves.shape[1], device=leaves.device).expand_as(leaves)
        into = places.clone()
        into[:, ::2] = 2 * partner + 1  # the proposals
        if decision.payload is not None:  # those of the recording, where it has one
            recorded = places_of(state, decision.payload, self.num_tokens)
            into = torch.where(decision.payload >= 0, recorded, into)
        state = merge_into(state, torch.where(leaves, into, places))
        # A before B, as after `merge_equally`: the next block deals them out alike.
        return compact(state, live_tokens(state) & ~leaves, places % 2)


def match(keys: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """For every token of A its best likeness and the number in B of the token that has it, [B, A].

    `keys` [B, heads, N, d]; A are the tokens 0, 2, ..., B are 1, 3, ...
    """
    total = keys.detach().sum(1)  # [B, N, d]; a mean's direction is the sum's
    length = torch.linalg.vector_norm(total, dim=-1, keepdim=True)
    unit = total / length.clamp_min_(NO_LENGTH)
    likeness = torch.bmm(unit[:, ::2], unit[:, 1::2].transpose(1, 2))  # [B, A, B]
    if mask is not None:
        likeness = likeness.masked_fill(~mask[:, None, 1::2], -torch.inf)
    best, partner = likeness.max(-1)
    return best, partner


def merge_equally(state: State, stay: Tensor, leave: Tensor, into: Tensor) -> State:
    """A's tokens `leave` [B, r] merged into B's `into` [B, r]; A's `stay` and all of B are left.

    Numbers count in A and in B.
    """
    length, num_stay = state.x.shape[1], stay.shape[1]
    odd = torch.arange(1, length, 2, device=stay.device).expand(len(stay), -1)
    left = state.take(torch.cat([2 * stay, odd], 1))  # copies, so that they are changed in place
    sources = flat_places(2 * leave, length)  # [B r]
    targets = flat_places(into + num_stay, num_stay + odd.shape[1])  # B's tokens come second
    x = left.x.flatten(0, 1)
    if state.sizes is None or left.sizes is None:
        leaving, sizes = x.new_ones(len(sources)), x.new_ones(len(x))
    else:
        leaving, sizes = state.sizes.flatten().index_select(0, sources), left.sizes.flatten()
    sizes.index_add_(0, targets, leaving)
    # The mean by what each source adds to its target: only rows that change are computed.
    share = (leaving / sizes.index_select(0, targets))[:, None]
    moved = state.x.flatten(0, 1).index_select(0, sources) - x.index_select(0, targets)
    x.index_add_(0, targets, moved * share)
    return left.changed(sizes=sizes.view(left.x.shape[:2]))


def merge_into(state: State, into: Tensor) -> State:
    """Every token merged into the one at the place `into` [B, N], which may be itself."""
    sizes = state.x.new_ones(into.shape) if state.sizes is None else state.sizes
    sizes = sizes * live_tokens(state)
    summed = torch.zeros_like(sizes).scatter_add(1, into, sizes)  # [B, N]
    weighted = state.x * sizes[..., None]
    wide = into[..., None].expand_as(state.x)
    total = torch.zeros_like(state.x).scatter_add(1, wide, weighted)
    # Tokens that leave and padding sum to 0 tokens: any finite value will do.
    sizes = summed.clamp_min(1)
    return state.changed(x=total / sizes[..., None], sizes=sizes)
