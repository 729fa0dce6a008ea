"""A block with gates for tokens, attention heads and its two halves; declares what they cost.

Gates are linear in the block's input: a token's own for the token, and the class token's (the mean
token's without one) for heads and halves.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import routing
from methods.parts.blocks.gate_costs import GatedCosts
from methods.parts.gates import binary
from methods.parts.tokens.class_token import eligible_tokens, pairs_with_class, with_class
from methods.parts.tokens.running_tokens import run_blocks, work_on
from methods.trunk.gated_attention import AttentionGates
from methods.trunk.head import mean_token
from methods.trunk.selection import Selection, run_mix
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

OPEN = 2.0  # a gate's logit at initialisation: open with probability 0.88, nearly the dense model
HEADS: tuple[routing.Axis, ...] = ("sample", "head")


class Opened(NamedTuple):
    """What the gates of one kind let through in a block."""

    run: Tensor  # bool: [B, T] of tokens, [B, heads] of heads, [B] of a half
    value: Tensor  # the factor, with gradient in training
    num_eligible: Tensor  # how many elements could have run


class BlockGates(NamedTuple):
    """What the gates of a block let through; None for a kind that it has not."""

    tokens: Opened | None = None
    heads: Opened | None = None
    mix: Opened | None = None
    feed: Opened | None = None


class GatedBlock(nn.Module):
    """Block `number` of `trunk` with gates of the kinds that are set; not for cross-attention.

    Training computes everything, and gates take their share of what each half adds. At inference a
    half runs on the running tokens of the samples that run it, with their running heads.
    """

    def __init__(
        self,
        trunk: Trunk,
        number: int,
        *,
        tokens: bool,
        heads: bool,
        halves: bool,
        temperature: float,
    ) -> None:
        super().__init__()
        block: Any = trunk.blocks[number]
        self.block, self.number, self.temperature = block, number, temperature
        self.class_token = trunk.class_token
        self.costs = GatedCosts(block, trunk.block_costs()[number].pair, trunk.class_token)
        self.num_heads = int(block.attention.num_heads) if heads else 0
        self.halves = halves
        self.token_gate = _make_gate(trunk.dim, 1) if tokens else None
        num_gates = self.num_heads + 2 * halves
        self.sample_gate = _make_gate(trunk.dim, num_gates) if num_gates else None

    def forward(self, state: State, shift: Tensor) -> tuple[State, BlockGates]:
        """The state after the block, and what its gates let through; `shift` is of all logits."""
        with routing.region("router"):
            gates = self._decide(state, shift)
        run = self._run_masked if self.training else self._run_chosen
        return run(state, gates), gates

    def declared_flops(self, observation: routing.Observation) -> float:
        """FLOPs that the decisions of this block declare together, over all calls."""
        names = [f"{kind}{self.number}" for kind in BlockGates._fields]
        calls = [observation.named(name) for name in names]
        return sum(
            self.costs.declared(*(each[call] if each else None for each in calls))
            for call in range(max(map(len, calls)))
        )

    # Deciding

    def _decide(self, state: State, shift: Tensor) -> BlockGates:
        gates, costs, num_tokens = BlockGates(), self.costs, state.x.shape[1]
        if self.token_gate is not None:
            logits = self.token_gate(state.x)[..., 0].float() + shift  # [B, T]
            eligible = eligible_tokens(state, self.class_token)
            tokens = self._open("tokens", routing.TOKENS, logits, costs.of_token(), eligible)
            gates = gates._replace(tokens=tokens)
        if self.sample_gate is None:
            return gates
        read = state.x[:, 0] if self.class_token else mean_token(state)  # [B, D]
        logits = self.sample_gate(read).float() + shift  # [B, heads + halves]
        whole = costs.mix(num_tokens)
        if self.num_heads:
            heads = logits[:, : self.num_heads]
            gates = gates._replace(heads=self._open("heads", HEADS, heads, whole / self.num_heads))
        if self.halves:
            mix, feed = logits[:, self.num_heads :].unbind(1)  # [B] each
            gates = gates._replace(
                mix=self._open("mix", routing.SAMPLES, mix, whole),
                feed=self._open("feed", routing.SAMPLES, feed, costs.feed(num_tokens)),
            )
        return gates

    def _open(
        self,
        kind: str,
        axes: tuple[routing.Axis, ...],
        logits: Tensor,
        cost: float | routing.Cost,
        eligible: Tensor | None = None,
    ) -> Opened:
        """The gates of one kind by their logits, shaped by `axes`."""

        def decide(probability: Tensor, run: Tensor) -> Tensor:
            return routing.decide(
                f"{kind}{self.number}",
                axes=axes,
                probabilities=probability,
                run=run if eligible is None else run & eligible,
                cost=cost,
                eligible=eligible,
                past=lambda: pairs_with_class(run, self.class_token and kind == "tokens"),
            )

        gate = binary(logits, training=self.training, temperature=self.temperature, decide=decide)
        number = torch.as_tensor(logits.numel(), device=logits.device)
        return Opened(gate.run, gate.value, number if eligible is None else eligible.sum())

    # Training: everything is computed

    def _run_masked(self, state: State, gates: BlockGates) -> State:
        tokens = (
            None if gates.tokens is None else with_class(gates.tokens.value, self.class_token)
        )  # [B, T]
        heads = None if gates.heads is None else gates.heads.value
        if tokens is None and heads is None:
            mixed = self.block.mix(state)
        else:
            mixed = self.block.mix(state, gates=AttentionGates(tokens, heads))
        state = _take_share(state, mixed, tokens, gates.mix)
        return _take_share(state, self.block.feed(state), tokens, gates.feed)

    # Inference: only what runs is computed

    def _run_chosen(self, state: State, gates: BlockGates) -> State:
        if gates.tokens is None:
            live, around = (
                torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device),
                state,
            )
        else:  # padding is never live
            live, around = (
                with_class(gates.tokens.run, self.class_token),
                replace(state, mask=None),
            )
        if gates.mix is not None and gates.feed is not None:
            new = work_on(around, live & gates.mix.run[:, None], partial(self._mix, gates))
            new = work_on(new, live & gates.feed.run[:, None], self._feed)
        elif gates.heads is not None:
            new = work_on(around, live, partial(self._mix_and_feed, gates))
        else:
            new = run_blocks([self.block], around, live)
        return replace(new, mask=state.mask)

    def _mix(self, gates: BlockGates, packed: State, selection: Selection) -> State:
        """The attention half of the packed tokens, with the running heads of their samples."""
        if gates.heads is None:
            return run_mix(self.block, packed, selection)
        run, samples = gates.heads.run, selection.samples
        run = run if samples is None else run.index_select(0, samples)
        return run_mix(self.block, packed, selection, gates=AttentionGates(run=run))

    def _feed(self, packed: State, selection: Selection) -> State:
        """The feed-forward half of the packed tokens."""
        # Masks are [n, K] and do not fit packed tokens, of which none is padding.
        fed: State = self.block.feed(replace(packed, mask=None, routed=None))
        return fed

    def _mix_and_feed(self, gates: BlockGates, packed: State, selection: Selection) -> State:
        """The whole block on the packed tokens."""
        return self._feed(self._mix(gates, packed, selection), selection)


def _make_gate(dim: int, num_gates: int) -> nn.Linear:
    """Linear gates, open at first."""
    gate = nn.Linear(dim, num_gates)
    nn.init.normal_(gate.weight, std=0.02)
    nn.init.constant_(gate.bias, OPEN)
    return gate


def _take_share(old: State, new: State, tokens: Tensor | None, half: Opened | None) -> State:
    """`old` where gates are closed, `new` where open: by `tokens` [B, T] and by `half` [B]."""
    if tokens is None and half is None:
        return new
    factor = old.x.new_ones(1, 1) if tokens is None else tokens
    factor = factor if half is None else factor * half.value[:, None]
    # x + factor (half(x) - x): a gate scales what the half adds, not the residual stream.
    return new.with_x(torch.lerp(old.x, new.x.to(old.x.dtype), factor[..., None].to(old.x.dtype)))
