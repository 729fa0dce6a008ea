"""Predictors of tokens worth keeping: scores, and the highest of them for each sample.

Rao et al. 2021, "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification",
section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.trunk.selection import Selection
from methods.trunk.state import State, flat_places

ROUNDING = 1e-6  # 100 tokens x 0.7^2 are 49, not the 48.999... of float arithmetic


class Predictor(nn.Module):
    """A score for each token, from its own features and from its sample's mean."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        # One logit instead of the paper's two: their difference is all that a decision reads, and
        # the difference of two Gumbel variables is logistic.
        self.score = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, dim // 4),
            nn.GELU(),
            nn.Linear(dim // 4, 1),
        )

    def forward(self, x: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
        """`x` [..., D] -> logits [...]; `mean` gives each token its sample's, [..., D / 2]."""
        local, shared = self.features(x).chunk(2, -1)
        return self.score(torch.cat([local, mean(shared)], -1))[..., 0]


def weighed_mean(weight: Tensor, features: Tensor) -> Tensor:
    """The mean of `features` [B, T, C] by `weight` [B, T], for every token."""
    total = weight.sum(1).clamp_min(ROUNDING)[:, None]  # [B, 1]
    mean = (features * weight[..., None].to(features.dtype)).sum(1) / total
    return mean[:, None].expand_as(features)


def select_equal(tokens: Tensor, state: State) -> Selection:
    """The tokens `tokens` [B, K], as many of every sample: nothing waits for the device."""
    return Selection(tokens, flat_places(tokens, state.x.shape[1]))


def score_kept(predictor: nn.Module, x: Tensor, kept: Selection) -> Tensor:
    """The logits of the kept tokens of `x` [B, T, D]; -inf for the others, [B, T]."""
    logits = x.new_full(x.shape[:2], -torch.inf, dtype=torch.float32)
    if not len(kept.places):
        return logits
    rows = x.flatten(0, 1).index_select(0, kept.places)  # [N, D]
    owner = kept.places // x.shape[1]  # [N]
    count = kept.tokens.shape[1] if kept.valid is None else kept.valid.sum(1, keepdim=True)

    def mean(features: Tensor) -> Tensor:  # [N, C]
        means = kept.pad(features[None]).sum(1) / count  # [B, C]
        return means.index_select(0, owner)

    found = predictor(rows, mean).float()
    return logits.flatten().index_copy(0, kept.places, found).view_as(logits)


def score_equal(predictor: nn.Module, x: Tensor, kept: Selection) -> Tensor:
    """The logits of the kept tokens of `x` [B, T, D], as many of every sample: [B, K]."""
    rows = x.flatten(0, 1).index_select(0, kept.places).view(*kept.tokens.shape, -1)  # [B, K, D]

    def mean(features: Tensor) -> Tensor:  # [B, K, C]
        return (features.sum(1, keepdim=True) / features.shape[1]).expand_as(features)

    logits: Tensor = predictor(rows, mean)
    return logits.float()


def top_tokens(logits: Tensor, tokens: Tensor, num_tokens: int, share: float) -> Tensor:
    """Those of `tokens` [B, K] with the floor(`share` N) highest `logits` [B, K], in order.

    One at least; `num_tokens`: N.
    """
    number = min(max(1, math.floor(share * num_tokens + ROUNDING)), tokens.shape[1])
    return tokens.gather(1, logits.topk(number, sorted=False).indices).sort(-1).values


def as_frame(tokens: Tensor, x: Tensor) -> Tensor:
    """True at `tokens` [B, K] of the frame of `x` [B, T, D]: bool [B, T]."""
    return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, tokens, True)


def keep_top(logits: Tensor, num_tokens: int | Tensor, share: float) -> Tensor:
    """The floor(`share` N) highest `logits` of each sample, bool [B, T], but one at least.

    Of those that are left: the logits of the others are -inf. `num_tokens`: N, [B] where samples
    differ.
    """
    wanted = (share * torch.as_tensor(num_tokens, device=logits.device) + ROUNDING).floor()
    rank = logits.argsort(1, descending=True).argsort(1)
    return (rank < wanted.clamp_min(1).view(-1, 1)) & logits.isfinite()
