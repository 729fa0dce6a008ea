"""Mixture-of-Depths: in every second block a router picks the tokens that the block works on.

Raposo et al. 2024, "Mixture-of-Depths: Dynamically allocating compute in transformer-based language
models". A routed block takes the `capacity` share of tokens with the highest scores r_i, lets
them attend among themselves at their own positions, and adds what it computed, scaled:

    x_i + g(r_i) (block(X)_i - x_i)  for the selected tokens X,     x_i  for the others

with g(r) = 2 sigmoid(r), so that a zero score leaves the block's result unscaled (the paper scales
by r itself); this allows training to start from a dense model.

A token's rank in its sequence depends on later tokens. In causal models the top-k selection is
therefore used in training only; in inference each token is decided by itself: a small predictor
of the selection (trained on detached inputs, so that it does not disturb the model) must exceed a
threshold. The threshold of each block and capacity is a quantile found on held-out batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Point, Range, TaskSpec, Unsupported
from methods.parts.tokens.running_tokens import num_held
from methods.trunk.costs import cost_of_tokens
from methods.trunk.selection import Selection, run_block, select_by_length, select_running
from methods.trunk.state import State, flat_places
from methods.trunk.trunk import Trunk


@dataclass
class MixtureOfDepths:
    """Every second block routed; trained with `capacity`, the share of tokens that it takes.

    The operating points are `capacity` and the others in `capacities`. Skips in training too.
    """

    compaction = "the same number of tokens of every sample, gathered"

    capacity: Annotated[float, Range(gt=0, le=1)] = 0.5
    capacities: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.125, 0.25, 0.375, 0.625, 0.75, 0.875]
    )
    train_share: Annotated[float, Range(0)] = 0.3

    def build(self, spec: TaskSpec, backbone: Backbone) -> Trunk:
        """The untrained backbone with every second block routed."""
        return self._route_blocks(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> Trunk:
        """A copy of the trained trunk with every second block routed."""
        return self._route_blocks(deepcopy(dense))

    def _route_blocks(self, trunk: Trunk) -> Trunk:
        """`trunk` with every second block routed, in place.

        Raises Unsupported where the state is not a row of tokens.
        """
        if not trunk.tokens:
            raise Unsupported("mixture_of_depths picks tokens; this trunk works on feature maps")
        costs = trunk.block_costs()
        # From the second block on: the first mixes raw embeddings, and every token needs it.
        for i in range(1, len(trunk.blocks), 2):
            trunk.blocks[i] = RoutedBlock(
                trunk.blocks[i],
                trunk.dim,
                self._shares(),
                costs[i],
                name=f"block{i}",
                causal=_is_causal(trunk),
            )
        return trunk

    def calibrate(self, model: Trunk, batches: Iterable[Batch]) -> None:
        """In a causal model, find thresholds that select each capacity's share of held-out tokens.

        Block after block, because a block's inputs depend on what earlier ones selected.
        """
        if not _is_causal(model):
            return
        held_out = list(batches)  # read once per point
        for point in reversed(self.points()):  # ends with the default
            self.set_point(model, point)
            states = [model.stem(batch) for batch in held_out]
            for block in model.blocks:
                if isinstance(block, RoutedBlock):
                    block.fit_threshold(states)
                states = [block(state) for state in states]

    def points(self) -> list[Point]:
        """One operating point per capacity, the default first."""
        return [{"capacity": capacity} for capacity in self._shares()]

    def _shares(self) -> list[float]:
        """`capacity` and the other capacities."""
        return [self.capacity, *(c for c in self.capacities if c != self.capacity)]

    def set_point(self, model: Trunk, point: Point) -> None:
        """Let every routed block take the share `point["capacity"]` of the tokens."""
        for block in model.blocks:
            if isinstance(block, RoutedBlock):
                block.set_capacity(float(point["capacity"]))


def _is_causal(trunk: Trunk) -> bool:
    """Whether blocks work on a decoder's tokens; of pairs the source alone is known as a whole."""
    return trunk.spec.causal or trunk.spec.kind == "seq2seq"


class RoutedBlock(nn.Module):
    """A block that works on selected tokens; the others pass unchanged.

    `capacities`: the shares of tokens that can be set, the first one initially.
    """

    thresholds: Tensor

    def __init__(
        self,
        block: nn.Module,
        dim: int,
        capacities: list[float],
        cost: routing.Cost,
        *,
        name: str,
        causal: bool,
    ) -> None:
        super().__init__()
        self.block, self.name, self.causal = block, name, causal
        self.capacities, self.active = capacities, 0
        self.cost = cost  # of a token, and of each pair among those selected
        self.router = nn.Linear(dim, 1, bias=False)
        # Small: at first every score is near 0, g near 1, and the block as in the dense model.
        nn.init.normal_(self.router.weight, std=0.02)
        if causal:
            self.predictor = nn.Sequential(
                nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, 1)
            )
            self.register_buffer("thresholds", torch.zeros(len(capacities)))

    def set_capacity(self, capacity: float) -> None:
        """Take this share of the tokens. Raises ValueError if it is not one of `capacities`."""
        self.active = self.capacities.index(capacity)

    @torch.no_grad()
    def fit_threshold(self, states: Iterable[State]) -> None:
        """Set the threshold that selects the active capacity's share of the tokens of `states`."""
        found = [self.predictor(state.x)[real_places(state)].flatten() for state in states]
        logits = torch.cat(found).sort().values
        num_left_out = len(logits) - math.ceil(self.capacities[self.active] * len(logits))
        if num_left_out == 0:
            self.thresholds[self.active] = -torch.inf
        else:  # halfway between two tokens, so that rounding flips no decision
            self.thresholds[self.active] = logits[num_left_out - 1 : num_left_out + 1].mean()

    def forward(self, state: State) -> State:
        """Route, run the block on the selected tokens and put them back; x stays [B, T, D]."""
        with routing.region("router"):
            score = self.router(state.x)[..., 0]  # [B, T]
            state, selection = self._select(state, score)
        if len(selection.places) == 0:  # never call a block on nothing
            return state
        if state.cache is not None and score.shape[1] == 1:
            return self._run_next(state, score, selection.places)
        with routing.region("dispatch"):
            picked = selection.take(state)  # x [1, N, D], positions and mask [B, K]
            if selection.valid is not None and (not self.causal or state.cache is not None):
                # In a causal model padding comes last, where no token sees it, but a cache would.
                real = selection.valid if picked.mask is None else picked.mask & selection.valid
                picked = picked.changed(mask=real)
        with routing.region("expert"):
            new = run_block(self.block, picked, selection)  # x [1, N, D]
        with routing.region("combine"):
            gate = 2 * score.flatten().index_select(0, selection.places).sigmoid()  # [N]
            # x + g (block(x) - x) in one kernel, and through it the router learns.
            changed = torch.lerp(picked.x, new.x, gate[:, None].to(new.x))
            x = selection.put(state.x, changed)
            return state.changed(x=x, aux_loss=new.aux_loss)

    def _run_next(self, state: State, score: Tensor, rows: Tensor) -> State:
        """Run the block on the one new token of the samples `rows` [n]; caches hold the earlier."""
        # One token each: whole samples are selected, without gathering tokens.
        with routing.region("dispatch"):
            picked = state if len(rows) == len(state.x) else state.select(rows)  # x [n, 1, D]
        with routing.region("expert"):
            new = self.block(picked)
        with routing.region("combine"):
            gate = 2 * score.index_select(0, rows).sigmoid()  # [n, 1]
            changed = torch.lerp(picked.x, new.x, gate[..., None].to(new.x))
            return state.with_x(state.x.index_copy(0, rows, changed))

    def _select(self, state: State, score: Tensor) -> tuple[State, Selection]:
        """The state, in training with the predictor's loss, and the selected tokens."""
        logit = self.predictor(state.x.detach())[..., 0] if self.causal else score  # [B, T]
        tokens: Tensor | None = None
        real = state.real_tokens()
        if self.causal and not self.training:
            own = logit > self.thresholds[self.active]
            own = own if real is None else own & real
        elif real is None:
            num_taken = self._num_taken(score.shape[1])
            # Back in order of position: causal attention among them relies on it.
            tokens = score.topk(num_taken, sorted=False).indices.sort(-1).values  # [B, K]
            if not (self.causal or routing.is_read()):
                # Nothing reads the decision: no need to write it down.
                return state, Selection(tokens, flat_places(tokens, score.shape[1]))
            own = torch.zeros_like(score, dtype=torch.bool).scatter(1, tokens, True)
        else:
            own = self._top_of_real(score, real)
        if self.causal and self.training:
            # The predictor imitates the top-k selection (Raposo et al. 2024, section 3.5).
            places = real_places(state)
            loss = F.binary_cross_entropy_with_logits(logit[places], own.to(logit)[places])
            state = state.changed(aux_loss=state.aux_loss + loss)
        run = routing.decide(
            self.name,
            axes=routing.TOKENS,
            probabilities=logit.sigmoid(),
            run=own,
            cost=cost_of_tokens(self.block, self.cost, state.memory),
            index=state.index,
            eligible=real,
            past=partial(num_held, self.block, state),
        )
        if tokens is not None and run is own:
            # The same number in every sample: no padding, and no wait for the device.
            return state, Selection(tokens, flat_places(tokens, score.shape[1]))
        counts = [] if state.memory is None else run.sum(1).tolist()
        if not any(counts):
            return state, select_running(run)
        # Samples without a token take no part: their encoder's output needs no keys and values.
        return state, select_by_length(run, counts)

    def _num_taken(self, length: int) -> int:
        """Number of tokens taken of `length`; at least one."""
        return math.ceil(self.capacities[self.active] * length)

    def _top_of_real(self, score: Tensor, mask: Tensor) -> Tensor:
        """The highest scores among each sample's real tokens, bool [B, T]: padding never counts."""
        numbers = torch.ceil(mask.sum(1) * self.capacities[self.active])  # [B]
        # Padding ranks last, behind every real token, and no sample takes more than it has.
        rank = score.masked_fill(~mask, -torch.inf).argsort(1, descending=True).argsort(1)
        return rank < numbers[:, None]


def real_places(state: State) -> Tensor | tuple[()]:
    """What picks the real tokens out of [B, T, ...]: a bool [B, T], or () for all."""
    real = state.real_tokens()
    return () if real is None else real
