"""Fewer tokens from block to block: what merging, fusing and dropping tokens have in common.

A reducing block works on the tokens that are left: its attention, then the reduction, then its
feed-forward layer on what stays. A method's own decisions leave equally many tokens of every
sample, so that the state stays a rectangle [B, N, D] without padding. Forced decisions may be
ragged: `state.mask` then marks the tokens that are left, which come first in each row, and
everything but attention's products runs without the padding.

Letters in shapes: B samples, N tokens at this block, T tokens of the input, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.routing import Cost, Decision, Observation
from bench.types import Batch, Output, Unsupported
from methods.trunk.attention import AttentionView
from methods.trunk.costs import linear_flops
from methods.trunk.selection import select_running
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class ReducedTrunk(nn.Module):
    """`trunk`, some of whose blocks reduce tokens between attention and feed-forward layer.

    A method defines `reduce`, and `deciding_flops` where its decisions take products. `stages` are
    the blocks that reduce at the active operating point; the decision of block i is called
    `{verb}{i}`. Raises Unsupported unless the samples have equally many tokens, all visible.
    """

    verb = "reduce"
    adds_a_token = False  # whether what leaves a sample becomes one new token

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        if not trunk.tokens:
            raise Unsupported("needs a row of tokens; this trunk works on feature maps")
        if trunk.spec.kind not in ("image", "audio"):
            raise Unsupported(
                f"takes equally many tokens from every sample; those of {trunk.spec.kind} tasks "
                "are padded or must not look ahead"
            )
        self.trunk, self.num_tokens = trunk, count_tokens(trunk)
        blocks: Iterable[Any] = trunk.blocks
        # FLOPs of a token in a block's two halves, and of a pair of tokens in its attention.
        self.feed_flops = [float(linear_flops(block.ffn)) for block in blocks]
        self.mix_flops = [float(linear_flops(block)) for block in blocks]
        self.mix_flops = [a - b for a, b in zip(self.mix_flops, self.feed_flops, strict=True)]
        self.pair_flops = [cost.pair for cost in trunk.block_costs()]
        self.stages: tuple[int, ...] = ()

    def forward(self, batch: Batch) -> Output:
        """Logits of what is left after the last block."""
        state = self.begin(batch)
        for number, block in enumerate(self.trunk.blocks):
            if number in self.stages:
                view = self.make_view()
                state = mix(block, state, view)
                state = feed(block, self.reduce(number, state, view))
            elif state.mask is None:
                state = block(state)
            else:
                state = feed(block, mix(block, state, None))
        return Output(self.trunk.head(state), state.aux_loss)

    def begin(self, batch: Batch) -> State:
        """The state before the first block."""
        state: State = self.trunk.stem(batch)
        return state

    def make_view(self) -> AttentionView | None:
        """What of a reducing block's attention `reduce` looks at; None for nothing."""
        return None

    def reduce(self, number: int, state: State, view: Any) -> State:
        """The state after block `number`'s attention with fewer tokens."""
        raise NotImplementedError

    def deciding_flops(self, lengths: Tensor, reduces: Tensor) -> Tensor:
        """FLOPs of one reduction beyond its block, [B].

        `lengths` [B] are the tokens before it, `reduces` [B] bool whether any of them leaves.
        """
        return torch.zeros_like(lengths)

    def eligible(self, state: State) -> Tensor:
        """The tokens that may leave: all that are left but the class token, bool [B, N]."""
        live = live_tokens(state)
        if not self.trunk.class_token:
            return live
        return live & (torch.arange(live.shape[1], device=live.device) > 0)

    def announce(
        self,
        number: int,
        state: State,
        scores: Tensor,
        run: Tensor,
        eligible: Tensor,
        payload: Tensor | None = None,
    ) -> Decision:
        """The decision of block `number` to obey; `scores`, `run`, `eligible`, `payload` [B, N]."""
        return routing.announce(
            Decision(
                f"{self.verb}{number}",
                routing.TOKENS,
                scores.detach(),
                run,
                self._cost_until_next(number),
                tokens=state.positions,
                eligible=eligible,
                payload=payload,
            )
        )

    def _cost_until_next(self, number: int) -> Cost:
        """What a token that stays costs until the next reduction, or the end."""
        end = min((stage for stage in self.stages if stage > number), default=len(self.mix_flops))
        # Of the next reducing block its attention alone: then the next decision holds.
        mixed = slice(number + 1, end + 1)
        element = sum(self.feed_flops[number:end]) + sum(self.mix_flops[mixed])
        return Cost(element, pair=sum(self.pair_flops[mixed]))

    def declared_flops(self, observation: Observation) -> float:
        """FLOPs of all blocks and reductions at the lengths that the decisions leave.

        Not the sum over decisions: a token pairs with those that earlier decisions left.
        """
        gates: dict[str, list[Decision]] = {}
        for decision in observation.decisions:
            gates.setdefault(decision.name, []).append(decision)
        # Whatever is repeated was repeated for all gates: one entry of each belongs to one pass.
        passes = zip(*gates.values(), strict=True)
        return sum(self._flops_of_pass({d.name: d for d in each}) for each in passes)

    def _flops_of_pass(self, decisions: dict[str, Decision]) -> float:
        """FLOPs of the blocks in one pass, by the decisions of its gates."""
        first = next(iter(decisions.values()))
        lengths = first.run.new_full((len(first.run),), self.num_tokens, dtype=torch.float64)
        spent = torch.zeros_like(lengths)
        for number, mixed in enumerate(self.mix_flops):
            spent += mixed * lengths + self.pair_flops[number] * lengths**2
            if (decision := decisions.get(f"{self.verb}{number}")) is not None:
                assert decision.eligible is not None
                num_gone = (decision.eligible & ~decision.run).sum(1)
                spent += self.deciding_flops(lengths, num_gone > 0)
                lengths = lengths - num_gone + (num_gone > 0) * self.adds_a_token
                lengths = lengths.clamp_min(1)  # one token is left, whatever is forced
            spent += self.feed_flops[number] * lengths
        return float(spent.sum())


@torch.no_grad()
def count_tokens(trunk: Trunk) -> int:
    """The number of tokens that the stem makes of a sample: one blank sample passes through it."""
    device, was_training = next(trunk.parameters()).device, trunk.stem.training
    blank = torch.zeros(1, *trunk.spec.input_shape, device=device)
    trunk.stem.eval()  # statistics of a blank must not enter a batch norm
    num_tokens = trunk.stem(Batch(blank, blank)).x.shape[1]
    trunk.stem.train(was_training)
    return int(num_tokens)


def live_tokens(state: State) -> Tensor:
    """The tokens that are left, bool [B, N]."""
    if state.mask is not None:
        return state.mask
    return torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)


def mix(block: Any, state: State, view: AttentionView | None) -> State:
    """A block's attention among the tokens that are left; padding pays for its products alone."""
    if state.mask is None or not getattr(block, "takes_selection", False):
        mixed: State = block.mix(state, view=view)
        return mixed
    selection = select_running(state.mask)  # as wide as the state: its longest sample is full
    mixed = block.mix(selection.take(state), selection=selection, view=view)
    return state.with_x(selection.put(state.x, mixed.x))


def feed(block: Any, state: State) -> State:
    """A block's feed-forward layer on the tokens that are left."""
    if state.mask is None:
        fed: State = block.feed(state)
        return fed
    selection = select_running(state.mask)
    fed = block.feed(selection.take(state).changed(positions=None, mask=None, sizes=None))
    return state.changed(x=selection.put(state.x, fed.x), aux_loss=fed.aux_loss)


def compact(state: State, stay: Tensor, group: Tensor | None = None) -> State:
    """The tokens where `stay` [B, N] bool, by `group` [B, N] and then by place, cut to the longest.

    Waits for the device, because the longest sample is data.
    """
    rank = torch.zeros_like(stay, dtype=torch.int64) if group is None else group
    last = int(rank.max()) + 1
    order = rank.masked_fill(~stay, last).argsort(dim=1, stable=True)
    counts = stay.sum(1)
    fewest, most = (int(count) for count in torch.aminmax(counts))
    mask = None  # equally many of every sample: a rectangle without padding
    if fewest < most:
        mask = torch.arange(most, device=stay.device) < counts[:, None]
    return state.take(order[:, :most]).changed(mask=mask)


def places_of(state: State, positions: Tensor, num_tokens: int) -> Tensor:
    """Where in the state the tokens of original `positions` [B, N] are; those of -1 anywhere."""
    own = state.token_positions().expand(state.x.shape[:2])  # [B, N]
    numbers = torch.arange(own.shape[1], device=own.device).expand_as(own)
    where = own.new_zeros(len(own), num_tokens).scatter(1, own, numbers)  # [B, T]
    return where.gather(1, positions.clamp_min(0))


def positions_at(state: State, places: Tensor) -> Tensor:
    """The original positions of the tokens at `places` [B, N] of the state."""
    return state.token_positions().expand(state.x.shape[:2]).gather(1, places)
