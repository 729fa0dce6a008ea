"""V-MoE: experts in every second block of a vision transformer, the likeliest tokens served first.

Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts". A token x goes to the K
largest entries of softmax(W x + noise), which also weigh the results; an expert takes at most

    capacity = ceil(C K N / E)        of the N tokens of the batch,

first choices before second ones, and among these the tokens with the largest weight first
(batch-priority routing, algorithm 2). What finds no place passes by the residual only. With C well
below 1 the layer thus drops the tokens that its router cares least about, without training again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bench.routing import TOKEN_CHOICES, decide, region
from bench.types import Backbone, OneOf, Point, Range, TaskSpec, Unsupported, check_fields
from methods.parts import dispatch
from methods.parts.gates import softmax, top_k
from methods.parts.weights.expert_layers import Experts, Router, expert_width


@dataclass
class MoEVision:
    """Mixture of experts with batch-priority routing in every second block.

    `num_layers`: in the last so many of these blocks only (Last-n; null for Every-2).
    `hidden_ratio`: an expert's hidden width / the dense layer's. With the defaults a mixture at
    C = 1 costs what the dense layer does, and the operating points cost less; the published models
    have experts as wide as the dense layer (variant `v_moe`). `capacity`: C. `capacities`: further
    ones at inference, each with `top_k` experts and with one.

    `balance_weight` scales the mean of the importance and the load loss; Gaussian noise of
    deviation 1 / `num_experts` is added to the router's logits in training. Padding enters no loss
    and takes no place of an expert.
    """

    compaction = "tokens are sorted by expert, each expert runs its own"

    num_experts: Annotated[int, Range(1)] = 8
    top_k: Annotated[int, Range(1)] = 2
    hidden_ratio: Annotated[float, Range(gt=0)] = 0.5
    num_layers: Annotated[int | None, Range(1)] = None
    capacity: Annotated[float, Range(gt=0)] = 1.05
    capacities: list[Annotated[float, Range(gt=0)]] = field(
        default_factory=lambda: [0.75, 0.5, 0.25, 0.125]
    )
    balance_weight: Annotated[float, Range(0)] = 0.01
    backend: Annotated[str, OneOf(*dispatch.BACKENDS)] = "auto"
    batch_invariant = False  # an expert's places are contested by all tokens of the batch

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work together."""
        check_fields(self)
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k}: there are {self.num_experts} experts")

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with mixtures in every second block.

        Raises Unsupported where a token would be compared with later ones, and for blocks without
        feed-forward layers.
        """
        if spec.causal or spec.kind == "seq2seq":
            raise Unsupported("batch-priority routing compares a token with later ones: not causal")
        with torch.device("meta"):  # only how many blocks there are: no memory, no random numbers
            num_blocks = len(backbone.build(spec).blocks)
        routed = range(1, num_blocks, 2)[-(self.num_layers or num_blocks) :]
        if len(routed) < (self.num_layers or 1):
            raise Unsupported(
                f"num_layers={self.num_layers or 1}: every second of {num_blocks} blocks is "
                f"{len(routed)}"
            )

        def make(index: int, dense: Callable[[], Any]) -> Any:
            block = dense()
            if index in routed:
                block.ffn = self._make_mixture(getattr(block, "ffn", None), f"moe{index}")
            return block

        trunk: nn.Module = backbone.build(spec, block=make)
        return trunk

    def _make_mixture(self, dense: Any, name: str) -> nn.Module:
        if not hasattr(dense, "hidden"):
            raise Unsupported("moe_vision replaces feed-forward layers; this backbone has none")
        return PriorityFFN(dense.dim, expert_width(dense.hidden, self.hidden_ratio), self, name)

    def points(self) -> list[Point]:
        """Capacities with `top_k` experts per token, then with one; the trained setting first."""
        shares = [self.capacity, *(c for c in self.capacities if c != self.capacity)]
        return [
            {"top_k": k, "capacity": share}
            for k in dict.fromkeys((self.top_k, 1))
            for share in shares
        ]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Route to `point["top_k"]` experts of capacity `point["capacity"]` from now on."""
        for module in model.modules():
            if isinstance(module, PriorityFFN):
                module.top_k = int(point["top_k"])
                module.capacity = float(point["capacity"])


class PriorityFFN(nn.Module):
    """sum over the chosen experts that have a place of probability_e f_e(x).

    In training also the auxiliary loss. Skips in training as at inference.
    """

    takes_mask = True  # padding must neither take places nor be balanced

    def __init__(self, dim: int, hidden: int, settings: MoEVision, name: str) -> None:
        super().__init__()
        self.name, self.backend = name, settings.backend
        self.top_k, self.capacity = settings.top_k, settings.capacity
        self.balance_weight = settings.balance_weight
        self.router = Router(dim, settings.num_experts)
        self.experts = Experts(settings.num_experts, dim, hidden, "gelu")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[B, T, D] -> [B, T, D], with the weighted auxiliary loss in training.

        `mask` [B, T] is false in the padding.
        """
        with region("router"):
            logits = self.router(x)  # [B, T, E]
            deviation = 1 / logits.shape[-1]
            noisy = logits + deviation * torch.randn_like(logits) if self.training else logits
            probability = softmax(noisy)
            run = decide(
                self.name,
                axes=TOKEN_CHOICES,
                probabilities=probability,
                run=self._find_places(probability.detach(), mask),
                cost=self.experts.flops_per_row,
            )
        y = dispatch.mix(
            x.flatten(0, 1),
            run.flatten(0, 1),
            # Not normalised over the chosen ones: with K = 1 a weight of 1 had no gradient.
            probability.flatten(0, 1),
            self.experts,
            self.backend,
        ).view_as(x)
        if not self.training:
            return y
        real = slice(None) if mask is None else mask  # [B, T, E] -> [N, E] with a mask
        return y, self.balance_weight * aux_loss(logits[real], noisy[real], self.top_k, deviation)

    def _find_places(self, probability: Tensor, mask: Tensor | None) -> Tensor:
        """The choices that find a place, bool like `probability` [B, T, E]."""
        weights, choices = probability.topk(self.top_k, dim=-1)  # [B, T, K], the largest first
        num_tokens = choices[..., 0].numel() if mask is None else int(mask.sum())
        num_experts = probability.shape[-1]
        limit = dispatch.capacity(num_tokens, num_experts, self.top_k, self.capacity)
        if limit >= num_tokens and mask is None:
            return top_k(probability, self.top_k)  # no token is dropped
        return dispatch.within_capacity(
            choices, num_experts, limit, mask=mask, priority=weights[..., 0]
        )


def aux_loss(logits: Tensor, noisy: Tensor, k: int, deviation: float) -> Tensor:
    """(importance loss + load loss) / 2 of tokens' `logits` [..., E] (appendix A), a scalar.

    Both are squared coefficients of variation over the experts: of the summed probabilities without
    noise, and of the summed chance of being among the `k` best were the noise of this expert drawn
    again: 1 - Phi((threshold - logit) / deviation) with the k-th best of `noisy` as threshold.
    """
    logits, noisy = logits.flatten(0, -2), noisy.flatten(0, -2)  # [N, E]
    importance = softmax(logits).sum(0)  # [E]
    threshold = noisy.topk(k, dim=-1).values[:, -1:]  # [N, 1]
    # 1 - Phi(z) = erfc(z / sqrt 2) / 2, without the cancellation of 1 - Phi.
    load = 0.5 * torch.erfc((threshold - logits) / (deviation * math.sqrt(2)))
    return 0.5 * (squared_variation(importance) + squared_variation(load.sum(0)))


def squared_variation(totals: Tensor) -> Tensor:
    """(deviation / mean)^2 of `totals` [E], a scalar; 0 where all are 0."""
    # A batch of padding only has no token, and 0 / 0 would be NaN.
    return totals.var(correction=0) / totals.mean().square().clamp_min(1e-9)
