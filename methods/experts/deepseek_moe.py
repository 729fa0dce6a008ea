"""Fine-grained and shared experts, balanced by a bias instead of an auxiliary loss.

Dai et al. 2024 (DeepSeekMoE): many small experts, and some that every token passes; softmax scores
and a balance loss. DeepSeek-AI 2024 (DeepSeek-V3, section 2.1.2), the default here: sigmoid scores;
a bias per expert enters the selection only and is adjusted after every step, up for experts with
less than the mean load, down for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.routing import TOKEN_CHOICES, decide, region
from bench.types import Backbone, OneOf, Point, Range, TaskSpec, check_fields
from methods.parts import dispatch
from methods.parts.gates import balance_loss, softmax, top_k
from methods.parts.ranges import counts_up_to
from methods.parts.weights.expert_layers import Experts, Router, expert_width
from methods.trunk.feedforward import FeedForward, GatedFeedForward


@dataclass
class DeepSeekMoE:
    """Fine-grained routed experts plus shared ones in every feed-forward layer.

    With the defaults a token spends half of the dense layer's FLOPs, (top_k + num_shared) x
    hidden_ratio = (3 + 1) / 8, plus the router's, out of 17/8 of its parameters.

    `scores`: "sigmoid" with the chosen ones normalised (V3), or "softmax" over all experts as it is
    (DeepSeekMoE-16B). `num_dense_layers`: so many layers, the first ones, stay dense (16B: 1).
    `num_groups`, `top_groups`: experts are chosen only from the best groups, a group's score being
    the sum of its two best experts (1 of 1: off). `route_scale` multiplies the weights. `bias_rate`
    is the balancing step gamma, `balance_weight` scales the balance loss instead (16B: 0.001).
    Padding runs as in a dense layer, but counts neither in the load nor in the loss.
    """

    compaction = "tokens are sorted by expert, each expert runs its own"

    num_experts: Annotated[int, Range(1)] = 16
    top_k: Annotated[int, Range(1)] = 3
    num_shared: Annotated[int, Range(0)] = 1
    hidden_ratio: Annotated[float, Range(gt=0)] = 0.125
    activation: Annotated[str, OneOf("gelu", "swiglu")] = "gelu"
    scores: Annotated[str, OneOf("sigmoid", "softmax")] = "sigmoid"
    num_dense_layers: Annotated[int, Range(0)] = 0
    num_groups: Annotated[int, Range(1)] = 1
    top_groups: Annotated[int, Range(1)] = 1
    route_scale: Annotated[float, Range(gt=0)] = 1.0
    bias_rate: Annotated[float, Range(0)] = 0.001
    balance_weight: Annotated[float, Range(0)] = 0.0
    backend: Annotated[str, OneOf(*dispatch.BACKENDS)] = "auto"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work together."""
        check_fields(self)
        if self.num_experts % self.num_groups or self.top_groups > self.num_groups:
            raise ValueError(
                f"{self.top_groups} of {self.num_groups} groups of {self.num_experts} experts"
            )
        if self.top_k > self._num_eligible:
            raise ValueError(
                f"top_k={self.top_k}: only {self._num_eligible} experts can be chosen from"
            )

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with such a layer in place of every feed-forward layer."""
        layer = count()  # gates are named by the order in which layers are built

        def make(dim: int, hidden: int) -> nn.Module:
            number = next(layer)
            if number < self.num_dense_layers:
                gated = self.activation == "swiglu"
                return GatedFeedForward(dim, hidden) if gated else FeedForward(dim, hidden)
            width = expert_width(hidden, self.hidden_ratio)
            return DeepSeekFFN(dim, width, self, name=f"deepseek_moe.{number}")

        trunk: nn.Module = backbone.build(spec, ffn=make)
        return trunk

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Move every layer's selection bias against its load in the step just made."""
        for module in model.modules():
            if isinstance(module, DeepSeekFFN):
                module.rebalance(self.bias_rate)

    def points(self) -> list[Point]:
        """Routed experts per token at inference, the trained first; none dearer than dense."""
        largest = min(self._num_eligible, int(1 / self.hidden_ratio) - self.num_shared)
        return [{"top_k": k} for k in counts_up_to(largest, self.top_k)]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Route every token to `point["top_k"]` experts from now on."""
        for module in model.modules():
            if isinstance(module, DeepSeekFFN):
                module.top_k = int(point["top_k"])

    @property
    def _num_eligible(self) -> int:
        """Experts that a token can choose from, those of the best groups."""
        return self.num_experts // self.num_groups * self.top_groups


class DeepSeekFFN(nn.Module):
    """shared(x) + sum over the chosen experts of weight_e f_e(x). Skips in training too."""

    bias: Tensor
    load: Tensor
    takes_mask = True  # padding must not be balanced

    def __init__(
        self, dim: int, hidden: int, settings: DeepSeekMoE, *, name: str = "deepseek_moe"
    ) -> None:
        super().__init__()
        self.name, self.settings, self.top_k = name, settings, settings.top_k
        self.router = Router(dim, settings.num_experts)
        self.experts = Experts(settings.num_experts, dim, hidden, settings.activation)
        self.shared: Experts | None = None
        if settings.num_shared:  # together one wider expert: the sum of theirs
            self.shared = Experts(1, dim, hidden * settings.num_shared, settings.activation)
        # Buffers: the bias is part of the trained model, but no gradient moves it.
        self.register_buffer("bias", torch.zeros(settings.num_experts))
        self.register_buffer("load", torch.zeros(settings.num_experts))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[B, T, D] -> [B, T, D]; in training counts the experts' load and adds the balance loss.

        `mask` [B, T] is false in the padding.
        """
        with region("router"):
            score = self._scores(x)  # [B, T, E]
            # Bias and groups affect which experts run, never their weights.
            best = top_k(self._in_best_groups(score.detach() + self.bias), self.top_k)
            run = decide(
                self.name,
                axes=TOKEN_CHOICES,
                probabilities=score,
                run=best,
                cost=self.experts.flops_per_row,
            )
            weights = self._weights(score, run)
        y = dispatch.mix(
            x.flatten(0, 1),
            run.flatten(0, 1),
            weights.flatten(0, 1),
            self.experts,
            self.settings.backend,
        ).view_as(x)
        if self.shared is not None:  # every token passes them: no gate, no dispatch
            y = y + self.shared.each()[0](x)
        if not self.training:
            return y
        real = slice(None) if mask is None else mask
        score, best = score[real].flatten(0, -2), best[real].flatten(0, -2)  # [N, E]
        self.load += best.sum(0)  # until `rebalance`: over all passes of a step
        return (y, self._balance_loss(score, best)) if self.settings.balance_weight else y

    def _balance_loss(self, score: Tensor, best: Tensor) -> Tensor:
        share = score / score.sum(-1, keepdim=True)  # sigmoid scores do not add up to 1
        return self.settings.balance_weight * balance_loss(share, best)

    def _scores(self, x: Tensor) -> Tensor:
        """How well each expert fits each token, [B, T, E] in 0..1."""
        logits = self.router(x)
        return softmax(logits) if self.settings.scores == "softmax" else logits.sigmoid()

    def _weights(self, score: Tensor, run: Tensor) -> Tensor:
        """The weight of each expert's result, [B, T, E]; 0 where it does not run."""
        chosen = score * run
        if self.settings.scores == "sigmoid":
            chosen = chosen / chosen.sum(-1, keepdim=True).clamp_min(1e-9)  # closed: 0, not NaN
        return chosen * self.settings.route_scale

    def _in_best_groups(self, score: Tensor) -> Tensor:
        """`score` [..., E] with -inf outside the best groups."""
        if self.settings.num_groups == 1:
            return score
        groups = score.unflatten(-1, (self.settings.num_groups, -1))  # [..., groups, E / groups]
        strength = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1)  # [..., groups]
        best = top_k(strength, self.settings.top_groups)
        return groups.masked_fill(~best[..., None], -torch.inf).flatten(-2)

    @torch.no_grad()
    def rebalance(self, rate: float) -> None:
        """bias += rate x sign(mean load - load), then count from 0."""
        # Only the sign, as in DeepSeek-V3: one outlier in load must not move a bias far.
        self.bias += rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()
