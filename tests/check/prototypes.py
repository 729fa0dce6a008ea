"""Throw-away methods of kinds that are not built in: their decisions can be expressed.

Merging: a pairing that a replay repeats. Widths: one of several unequal costs for every sample.
Halting: tokens that stop, each at its own depth. All three run the same path in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.routing import Decision, region
from bench.types import Batch, Output, Unsupported
from methods.trunk.selection import run_block, select_running
from methods.trunk.state import State


@dataclass
class Merging:
    """Before every second block, `share` of the tokens merge into their most similar neighbours."""

    share: float = 0.25
    train_share: float = 0.3
    open_is_dense = True

    def convert(self, dense: Any, batches: Any) -> nn.Module:
        if not dense.tokens or dense.spec.causal or dense.spec.kind == "seq2seq":
            raise Unsupported("merging needs a row of tokens, all of them visible")
        return MergingModel(dense, self.share)


class MergingModel(nn.Module):
    """Tokens keep their places; `live` are those that still stand for themselves and others."""

    def __init__(self, trunk: Any, share: float) -> None:
        super().__init__()
        self.trunk, self.share, self.costs = trunk, share, trunk.block_costs()

    def forward(self, batch: Batch) -> Output:
        state: State = self.trunk.stem(batch)
        live = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
        live = live if state.mask is None else state.mask
        state = replace(state, sizes=live.to(state.x.dtype), mask=None)
        for number, block in enumerate(self.trunk.blocks):
            if number % 2 == 1:
                with region("router"):
                    like = similarity(state.x, live)
                    obeyed = self._decide(number, like, live)
                with region("dispatch"):
                    state, live = merged(state, live, like, obeyed)
            state = run_live(block, state, live)
        return Output(self.trunk.head(replace(state, mask=live)), state.aux_loss)

    def _decide(self, number: int, like: Tensor, live: Tensor) -> Decision:
        """Which tokens stay, [B, T]; token 0 always does, so that something is left."""
        likeness = like.amax(-1)  # [B, T]
        first = torch.arange(live.shape[1], device=live.device) == 0
        eligible = live & ~first
        num_leave = (self.share * eligible.sum(1)).floor()
        rank = likeness.masked_fill(~eligible, -torch.inf).argsort(1, descending=True).argsort(1)
        run = eligible & (rank >= num_leave[:, None])
        # A token that stays is worked on by this block and the next, up to the next decision.
        rest = self.costs[number : number + 2]
        cost = routing.Cost(sum(c.element for c in rest), pair=sum(c.pair for c in rest))
        return routing.announce(
            Decision(
                f"merge{number}",
                routing.TOKENS,
                (1 - likeness).detach(),
                run,
                cost,
                eligible=eligible,
                # Token 0 is no part of `run`, and both looks at the others and is looked at.
                past=torch.full((len(run),), 2, device=run.device),
                payload=partners(like, live, run | (live & first)),
            )
        )


def similarity(x: Tensor, live: Tensor) -> Tensor:
    """Cosine similarity of every two live tokens, [B, T, T]; -inf for others and for itself."""
    unit = F.normalize(x.detach(), dim=-1)
    like = unit @ unit.transpose(1, 2)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return like.masked_fill(~live[:, None] | ~live[:, :, None] | itself, -torch.inf)


def partners(like: Tensor, live: Tensor, stay: Tensor) -> Tensor:
    """The staying token that every token merges into, [B, T]; itself where it stays."""
    best = like.masked_fill(~stay[:, None], -torch.inf).argmax(-1)
    own = torch.arange(live.shape[1], device=live.device).expand_as(best)
    return torch.where(stay | ~live, own, best)


def merged(state: State, live: Tensor, like: Tensor, obeyed: Decision) -> tuple[State, Tensor]:
    """Size-weighted means in the places of the tokens that stay."""
    first = torch.arange(live.shape[1], device=live.device) == 0
    stay = (obeyed.run | first) & live
    into = obeyed.payload if obeyed.payload is not None else partners(like, live, stay)
    weight = (state.sizes * live)[..., None]
    total = torch.zeros_like(state.x).scatter_add(
        1, into[..., None].expand_as(state.x), state.x * weight
    )
    sizes = torch.zeros_like(state.sizes).scatter_add(1, into, weight[..., 0])
    x = torch.where(stay[..., None], total / sizes.clamp_min(1)[..., None], state.x)
    return replace(state, x=x, sizes=torch.where(stay, sizes, state.sizes)), stay


def run_live(block: Any, state: State, live: Tensor) -> State:
    """The block on the live tokens, which look at one another only; others stay as they are."""
    if not live.any():  # padding only: no block is called on nothing
        return state
    selection = select_running(live)
    picked = selection.take(state)
    if selection.valid is not None:
        picked = replace(picked, mask=selection.valid)
    new = run_block(block, picked, selection)
    return replace(state, x=selection.put(state.x, new.x), aux_loss=new.aux_loss)


@dataclass
class Widths:
    """Feed-forward layers of which a sample uses the first neurons: a quarter, half or all."""

    widths: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0])

    def build(self, spec: Any, backbone: Any) -> nn.Module:
        if spec.causal or spec.kind == "seq2seq":
            raise Unsupported("one width for a sample would look ahead")
        layer = count()
        return backbone.build(
            spec, ffn=lambda dim, hidden: SlimFFN(dim, hidden, self.widths, f"width{next(layer)}")
        )


class SlimFFN(nn.Module):
    """W2[:, :h] gelu(W1[:h] x) with h chosen per sample from its mean token."""

    takes_mask = True

    def __init__(self, dim: int, hidden: int, widths: Sequence[float], name: str) -> None:
        super().__init__()
        self.name, self.sizes = name, [max(1, round(hidden * width)) for width in widths]
        self.gate = nn.Linear(dim, len(widths))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # [B, T, D]
        with region("router"):
            real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
            pooled = (x * real).sum(1) / real.sum(1).clamp_min(1)
            belief = self.gate(pooled).softmax(-1)  # [B, G]
            costs = [4.0 * x.shape[1] * x.shape[2] * size for size in self.sizes]
            run = routing.decide(
                self.name,
                axes=routing.SAMPLE_CHOICES,
                probabilities=belief,
                run=F.one_hot(belief.argmax(-1), len(costs)).bool(),
                cost=costs,
                exclusive=True,
            )
            value = 1 + (belief * run).sum(-1) - (belief * run).sum(-1).detach()  # straight through
        y = torch.zeros_like(x)
        for number, size in enumerate(self.sizes):
            rows = run[:, number].nonzero().flatten()
            if len(rows):
                h = F.gelu(F.linear(x[rows], self.up.weight[:size], self.up.bias[:size]))
                new = F.linear(h, self.down.weight[:, :size], self.down.bias)
                y = y.index_copy(0, rows, new.to(y.dtype))
        return y * value[:, None, None].to(y.dtype)


@dataclass
class Halting:
    """Every token adds up halting probabilities and stops when they reach `limit`."""

    bias: float = -1.0
    limit: float = 0.9

    def build(self, spec: Any, backbone: Any) -> nn.Module:
        trunk = backbone.build(spec)
        if not trunk.tokens or spec.kind == "seq2seq":
            raise Unsupported("halting needs a row of tokens that read nothing else")
        return HaltingModel(trunk, self.bias, self.limit)


class HaltingModel(nn.Module):
    """A gate before every block but the first; tokens that have stopped are no longer looked at."""

    def __init__(self, trunk: Any, bias: float, limit: float) -> None:
        super().__init__()
        self.trunk, self.costs, self.limit = trunk, trunk.block_costs(), limit
        self.gates = nn.ModuleList(nn.Linear(trunk.dim, 1) for _ in trunk.blocks[1:])
        for gate in self.gates:
            nn.init.constant_(gate.bias, bias)

    def forward(self, batch: Batch) -> Output:
        state: State = self.trunk.stem(batch)
        shape = state.x.shape[:2]
        live = torch.ones(shape, dtype=torch.bool, device=state.x.device)
        live = live if state.mask is None else state.mask
        real, total = live, torch.zeros(shape, device=state.x.device)
        state = replace(state, mask=None)
        for number, block in enumerate(self.trunk.blocks):
            halt = torch.zeros_like(total)
            if number:
                with region("router"):
                    halt = self.gates[number - 1](state.x)[..., 0].sigmoid().float()
                    total = total + halt.detach() * live
                    live = routing.decide(
                        f"halt{number}",
                        axes=routing.TOKENS,
                        probabilities=1 - halt,
                        run=live & (total < self.limit),
                        cost=self.costs[number],
                        eligible=live,
                    )
            if live.any():
                new = run_live(block, state, live)
                gate = (1 - (halt - halt.detach()))[..., None].to(state.x.dtype)
                state = new.with_x(state.x + gate * (new.x - state.x))
        return Output(self.trunk.head(replace(state, mask=real)), state.aux_loss)
