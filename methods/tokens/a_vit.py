"""A-ViT: every token stops when the halting probabilities of its blocks add up to one.

Yin et al. 2022, "A-ViT: Adaptive Tokens for Efficient Vision Transformer", after adaptive
computation time (Graves 2016). The gate has no parameters: after block l, token k halts with

    h_k^l = sigmoid(gamma x_k^l[0] + beta)

of its first channel. It stops after N_k, the first block where h_k^1 + ... + h_k^l >= 1 - eps; then
no block runs on it, and no token attends to it. It leaves with the mean of its states,

    sum_l p_k^l x_k^l,    p_k^l = h_k^l before N_k,    p_k^N = 1 - sum_{l < N} h_k^l,   0 after.

The loss adds the ponder cost, the mean of N_k + p_k^N, and the KL divergence from a Gaussian prior
over depth to the mean halting probabilities. A token's decision reads its own state only, so that
it never depends on later tokens. Training skips too: the decision itself has no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Output, Point, Range, TaskSpec, Unsupported
from methods.parts.shifts import Shift, first_samples
from methods.parts.tokens.class_token import eligible_tokens, pairs_with_class
from methods.parts.tokens.halting import EPSILON, Halting, advance, begin
from methods.parts.tokens.running_tokens import run_blocks
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

FLOOR = 0.01  # of a share of the halting distribution: its logarithm stays finite


@dataclass
class AViT:
    """Tokens of a trained dense model that halt; every pass skips, in training too.

    An operating point is a budget: the largest mean share of the blocks after the first that a
    token runs on held-out data, met by a shift of beta in the decisions alone. `gamma` and `beta`
    apply to the first channel standardised block by block over the dense model's tokens, which
    serves every backbone; the paper sets beta by hand for each model. `ponder_weight` and
    `prior_weight` are those of the loss; the prior's mean is at `prior_depth` of the depth.
    """

    compaction = "after every block the tokens that halted are left out of the next ones"

    budgets: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.7, 1.0, 0.85, 0.55, 0.4, 0.3, 0.2]
    )
    gamma: Annotated[float, Range(gt=0)] = 5.0
    beta: Annotated[float, Range(lt=0)] = -10.0
    ponder_weight: Annotated[float, Range(0)] = 5e-4
    prior_weight: Annotated[float, Range(0)] = 1e-3
    prior_depth: Annotated[float, Range(gt=0, le=1)] = 0.6
    train_share: Annotated[float, Range(0)] = 0.3

    def __post_init__(self) -> None:
        """Raises ValueError without a budget: the first one is the default operating point."""
        if not self.budgets:
            raise ValueError("budgets is empty: give at least one, such as [0.7]")

    def build(self, spec: TaskSpec, backbone: Backbone) -> HaltingTrunk:
        """The untrained backbone whose tokens halt, its first channel taken as it is."""
        return HaltingTrunk(backbone.build(spec), self)

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> HaltingTrunk:
        """A copy of the trained trunk, its first channel standardised on held-out batches."""
        model = HaltingTrunk(deepcopy(dense), self)
        model.standardise(first_samples(batches))
        return model

    def calibrate(self, model: HaltingTrunk, batches: Iterable[Batch]) -> None:
        """Find every budget's shift on held-out batches; sets the default point."""
        held_out = first_samples(batches)
        model.shift.fit(lambda: model.share_running(held_out))

    def points(self) -> list[Point]:
        """One operating point per budget, the default first."""
        return [{"budget": budget} for budget in self.budgets]

    def set_point(self, model: HaltingTrunk, point: Point) -> None:
        """Use a budget's shift. Raises ValueError for a budget that is not among `budgets`."""
        model.shift.use(float(point["budget"]))


class HaltingTrunk(nn.Module):
    """`trunk` with tokens that halt; the class token never does, so that no sample is lost.

    Raises Unsupported where the state is not a row of tokens, or a decoder's, and where there is no
    second block.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk, settings: AViT) -> None:
        super().__init__()
        if not trunk.tokens:
            raise Unsupported("a_vit halts tokens; this trunk works on feature maps")
        if trunk.spec.kind == "seq2seq":
            raise Unsupported("a_vit declares no cost of a decoder's cross-attention")
        if len(trunk.blocks) < 2:
            raise Unsupported("a_vit needs a second block, which halted tokens do not run")
        self.trunk, self.settings, self.costs = trunk, settings, trunk.block_costs()
        self.shift = Shift(settings.budgets)
        self.register_buffer("center", torch.zeros(len(trunk.blocks) - 1))
        self.register_buffer("scale", torch.ones(len(trunk.blocks) - 1))

    @torch.no_grad()
    def standardise(self, batches: Iterable[Batch]) -> None:
        """Set mean and deviation of the first channel after each block but the last."""
        found: list[list[Tensor]] = [[] for _ in self.center]
        for batch in batches:
            state = self.trunk.stem(batch)
            gated = self._gated(state)
            for number, channels in enumerate(found):
                state = self.trunk.blocks[number](state)
                channels.append(state.x[..., 0][gated].float())
        for number, channels in enumerate(found):
            values = torch.cat(channels) if channels else self.center[:0]
            if len(values) > 1:  # of one token there is no deviation
                self.center[number] = values.mean()
                self.scale[number] = values.std().clamp_min(1e-6)

    def share_running(self, batches: Iterable[Batch]) -> float:
        """The share of the blocks after the first that run on a token, over all of `batches`."""
        ran = could = 0
        for batch in batches:
            depth = self(batch).stats["depth"]
            ran += int(depth.clamp_min(0).sum())
            could += int((depth >= 0).sum()) * len(self.center)
        return ran / max(could, 1)

    def forward(self, batch: Batch) -> Output:
        """In training `aux_loss` holds ponder cost and prior.

        `stats`: `depth` [B, T], how many blocks after the first ran on each token, -1 where no gate
        decides (padding, the class token); `weights` [blocks, B, T] of each token's states.
        """
        state: State = self.trunk.stem(batch)
        mask, gated = state.mask, self._gated(state)
        at = begin(torch.ones_like(gated) if mask is None else mask)
        out, depth = torch.zeros_like(state.x), gated.long() - 1
        state = replace(state, mask=None)  # padding is never live
        weights, scores = list[Tensor](), list[Tensor]()
        for number, block in enumerate(self.trunk.blocks):
            state, left = run_blocks([block], state, at.live), at.left
            with routing.region("router"):
                at, score = self._advance(number, at, state.x, gated)
                depth = depth + (at.live & gated)
                scores.append(score)
                weights.append(left - at.left)  # the sum over the blocks is 1
            with routing.region("combine"):
                out = torch.addcmul(out, weights[-1][..., None].to(out.dtype), state.x)
        logits = self.trunk.head(replace(state, x=out, mask=mask))
        stats = {"depth": depth, "weights": torch.stack(weights)}
        price = self._price(depth, stats["weights"], scores) if self.training else 0.0
        return Output(logits, state.aux_loss + price, stats)

    def _gated(self, state: State) -> Tensor:
        """The tokens that may halt, bool [B, T]: all real ones but the class token."""
        gated = eligible_tokens(state, self.trunk.class_token)
        if gated is None:
            gated = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
        return gated

    def _advance(
        self, number: int, at: Halting, x: Tensor, gated: Tensor
    ) -> tuple[Halting, Tensor]:
        """What is left after block `number` gave `x` [B, T, D], and the halting probabilities."""
        if number == len(self.center):  # the last block: every token leaves with all it has
            return Halting(at.live & False, at.total, at.left * 0), torch.ones_like(at.left)
        channel = (x[..., 0].float() - self.center[number]) / self.scale[number]
        logit = self.settings.gamma * channel + self.settings.beta
        score = logit.sigmoid()
        # A budget shifts the decisions, and not the weights, with which the head has learned.
        total = at.total + (logit.detach() - self.shift.value).sigmoid()
        eligible = at.live & gated
        run = routing.decide(
            f"halt{number}",
            axes=routing.TOKENS,
            probabilities=1 - score,
            run=eligible & (total < 1 - EPSILON),
            cost=self.costs[number + 1],
            eligible=eligible,
            past=lambda: pairs_with_class(eligible, self.trunk.class_token),
        )
        live = run | (at.live & ~gated)  # the class token
        return advance(at, live, score, total), score

    def _price(self, depth: Tensor, weights: Tensor, scores: list[Tensor]) -> Tensor:
        """Weighted ponder cost and divergence from the prior; shapes as in `forward`."""
        gated = depth >= 0
        num_tokens = gated.sum().clamp_min(1)  # a batch may be padding only
        remainder = weights.gather(0, depth.clamp_min(0)[None])[0]  # p of the last block that ran
        ponder = ((depth + 1 + remainder) * gated).sum() / num_tokens
        inner = torch.stack(scores[:-1])  # [blocks - 1, B, T]: after the last one all tokens halt
        number = torch.arange(len(inner), device=depth.device)[:, None, None]
        ran = gated & (depth >= number)
        found = (inner * ran).sum((1, 2)) / num_tokens
        found = (found / found.sum().clamp_min(1e-9)).clamp_min(FLOOR)
        center = self.settings.prior_depth * len(scores) - 1
        prior = (-0.5 * (number.flatten() - center).square()).softmax(0)
        divergence = (prior * (prior.clamp_min(1e-9).log() - found.log())).sum()
        return self.settings.ponder_weight * ponder + self.settings.prior_weight * divergence
