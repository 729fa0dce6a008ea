"""Multi-branch layers: a gate picks one of several branches of different cost for each input.

Input-selected branches after HydraNets (Mullapudi et al. 2018), with the hard Gumbel-softmax of
Jang et al. (2017) as the gate's estimator, a balance loss against dead branches (Fedus et al. 2021)
and a price on the chosen branch's FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.routing import SAMPLE_CHOICES, TOKEN_CHOICES, decide, region
from bench.types import Backbone, Point, Range, TaskSpec
from methods.parts import dispatch
from methods.parts.budget import Budget
from methods.parts.gates import balance_loss, one_of
from methods.trunk.feedforward import FeedForward
from methods.trunk.head import mean_token
from methods.trunk.state import State

# At inference: below 0 dearer branches are preferred. Logits differ by a few units.
PRICES = (0.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0)


@dataclass
class Branches:
    """Every feed-forward layer becomes one branch per entry of `widths`.

    `widths`: the branches' hidden widths as shares of the dense layer's. One branch runs: per
    sample, by its mean token; per token where a mean over tokens would look into the future
    (causal and sequence-to-sequence tasks). Skips in training as at inference; the gate then
    learns through the branch that ran.

    `balance_weight` scales the balance loss. `cost_weight` prices the gate's expected FLOPs, as a
    share of the most expensive branch's; with a `budget` for that share (null for a fixed price) it
    is the initial price of dual ascent. A fixed price is hard to choose: at 0.02 the most expensive
    branch is never used. `temperature` is the Gumbel-softmax's.
    """

    compaction = "samples or tokens are grouped by branch, each branch runs its own"

    widths: list[Annotated[float, Range(gt=0)]] = field(default_factory=lambda: [0.25, 0.5, 1.0])
    balance_weight: Annotated[float, Range(0)] = 0.01
    cost_weight: Annotated[float, Range(0)] = 0.0
    budget: Annotated[float | None, Range(gt=0, le=1)] = 0.3
    temperature: Annotated[float, Range(gt=0)] = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError without at least two branches."""
        if len(self.widths) < 2:
            raise ValueError(f"a choice needs two branches or more, not widths={self.widths}")

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with branches in place of every feed-forward layer."""
        layer = count()  # gates are named by the order in which layers are built
        per_token = spec.causal or spec.kind == "seq2seq"
        trunk: nn.Module = backbone.build(
            spec,
            ffn=lambda dim, hidden: BranchedFFN(
                dim, hidden, self, per_token=per_token, name=f"branches.{next(layer)}"
            ),
        )
        return trunk

    def points(self) -> list[Point]:
        """Prices at inference, on a branch's share of the dearest one's FLOPs; 0 as trained."""
        return [{"price": price} for price in PRICES]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Lower every branch's logit by `point["price"]` times its relative cost from now on."""
        for module in model.modules():
            if isinstance(module, BranchedFFN):
                module.price.fill_(float(point["price"]))


class BranchedFFN(nn.Module):
    """f_g(x) for the branch g that the gate picks; in training also the auxiliary loss.

    One decision with a choice per branch, each with its own cost.
    """

    takes_mask = True  # padding must not enter a sample's mean, nor the loss
    relative: Tensor
    price: Tensor

    def __init__(
        self, dim: int, hidden: int, settings: Branches, *, per_token: bool, name: str = "branches"
    ) -> None:
        super().__init__()
        self.name, self.settings, self.per_token = name, settings, per_token
        self.gate = nn.Linear(dim, len(settings.widths))
        # At least one neuron: a branch of none would have no gradient.
        layers = [FeedForward(dim, max(1, round(hidden * width))) for width in settings.widths]
        self.branches = BranchGroup(layers)
        self.costs = [4.0 * dim * layer.hidden for layer in layers]  # FLOPs of one token
        relative = torch.tensor(self.costs) / max(self.costs)  # [G]
        self.register_buffer("relative", relative, persistent=False)
        self.register_buffer("price", torch.tensor(PRICES[0]))
        self.budget = Budget(settings.cost_weight, settings.budget)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[B, T, D] -> [B, T, D], with the weighted auxiliary loss in training.

        `mask` [B, T] is false in the padding, which enters neither the gate of a sample nor the
        loss.
        """
        with region("router"):
            pooled = x if self.per_token else mean_token(State(x, mask=mask))
            logits = self.gate(pooled)  # [B, T, G] or [B, G]
            if not self.training:
                logits = logits - self.price * self.relative
            tokens_each = 1 if self.per_token else x.shape[1]
            choice = one_of(
                logits,
                training=self.training,
                temperature=self.settings.temperature,
                decide=partial(self._decide, tokens_each),
            )
        rows = x.flatten(0, 1) if self.per_token else x  # [N, D], or whole samples [B, T, D]
        num_branches = logits.shape[-1]
        y = dispatch.mix(
            rows,
            choice.run.reshape(-1, num_branches),
            choice.value.reshape(-1, num_branches),
            self.branches,
        ).view_as(x)
        if not self.training:
            return y
        real = mask if self.per_token and mask is not None else slice(None)
        return y, self._aux_loss(choice.probability[real], choice.run[real])

    def _decide(self, tokens_each: int, probability: Tensor, run: Tensor) -> Tensor:
        """Announce the choice; `tokens_each`: tokens that one element stands for."""
        return decide(
            self.name,
            axes=TOKEN_CHOICES if self.per_token else SAMPLE_CHOICES,
            probabilities=probability,
            run=run,
            cost=[cost * tokens_each for cost in self.costs],
            exclusive=True,
        )

    def _aux_loss(self, probability: Tensor, run: Tensor) -> Tensor:
        if not len(probability):  # padding only: no mean to take, and none to steer the budget by
            return probability.sum()
        balance = self.settings.balance_weight * balance_loss(probability, run)
        # Of probabilities, not of samples: the gradient reaches branches that did not run.
        expected = (
            (probability * self.relative).sum(-1).mean()
        )  # a share of the most expensive branch
        return balance + self.budget(expected)


class BranchGroup(nn.ModuleList):
    """Branches of different shapes: the `Groups` of `dispatch.mix`, one call each.

    No `can_sort`: a grouped GEMM needs weights of one shape.
    """

    def each(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The branches, each [n, ..., D] -> [n, ..., D]."""
        return list(self)
