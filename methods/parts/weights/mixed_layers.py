"""Layers whose weights are a mixture of experts' weights, another one for every sample.

Yang et al. 2019, CondConv: W_b = sum_e r_be W_e, then one convolution for each sample. Mixing the
weights and then convolving equals convolving with every expert and mixing the results, at the cost
of one convolution and E multiplications per weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mixture:
    """What the mixed layers of one block share: the weights r [B, E] of the current batch."""

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts
        self.shares: Tensor | None = None

    def mix(self, experts: Tensor, shape: Sequence[int]) -> Tensor:
        """`experts` [E, N] as a weight of N elements in `shape` for each sample, [B, *shape]."""
        assert self.shares is not None
        return (self.shares.to(experts.dtype) @ experts).view(-1, *shape)


def draw_experts(like: Tensor, num_experts: int) -> nn.Parameter:
    """Independent weights of as many elements N as `like`, [E, N].

    Mixed at r = 1/2, where a router begins, they have the root mean square of `like`.
    """
    scale = like.detach().square().mean().sqrt() * 2 / math.sqrt(num_experts)
    return nn.Parameter(torch.randn(num_experts, like.numel()) * scale)


class MixedConv2d(nn.Module):
    """A convolution like `old` with the mixed weights of each sample."""

    def __init__(self, old: nn.Conv2d, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.shape = tuple(old.weight.shape)  # out, in / groups, k, k
        self.experts = draw_experts(old.weight, mixture.num_experts)  # [E, N]
        self.bias = None if old.bias is None else nn.Parameter(old.bias.detach().clone())
        self.stride, self.padding, self.dilation = old.stride, old.padding, old.dilation
        self.groups, self.pointwise = old.groups, old.kernel_size == (1, 1) and old.groups == 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, height, width] -> [B, out, height / stride, width / stride]."""
        weights = self.mixture.mix(self.experts, self.shape)  # [B, out, in / groups, k, k]
        if len(x) > 1 and self.pointwise:
            y = pointwise_each(x[:, :, :: self.stride[0], :: self.stride[1]], weights)
        else:
            by = convolve_in_turn if x.device.type == "cpu" else convolve_grouped
            y = by(x, weights, self._settings())
        return y if self.bias is None else y + self.bias[:, None, None]

    def _settings(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }


class MixedLinear(nn.Module):
    """A linear layer like `old` with the mixed weights of each sample: [B, T, in] -> [B, T, out].

    All samples share one bias.
    """

    def __init__(self, old: nn.Linear, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.shape = tuple(old.weight.shape)  # out, in
        self.experts = draw_experts(old.weight, mixture.num_experts)  # [E, N]
        self.bias = None if old.bias is None else nn.Parameter(old.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mixture.mix(self.experts, self.shape)  # [B, out, in]
        y = torch.bmm(x, weights.transpose(1, 2).to(x.dtype))
        return y if self.bias is None else y + self.bias


def pointwise_each(x: Tensor, weights: Tensor) -> Tensor:
    """1x1 convolutions of samples [B, in, h, w] with `weights` [B, out, in, 1, 1], one product."""
    rows = x.permute(0, 2, 3, 1)  # [B, h, w, in]: in the layout of channels last, nothing moves
    y = torch.bmm(rows.flatten(1, 2), weights.flatten(2).transpose(1, 2).to(x.dtype))
    return y.view(*rows.shape[:3], -1).permute(0, 3, 1, 2)


def convolve_grouped(x: Tensor, weights: Tensor, settings: dict[str, Any]) -> Tensor:
    """Every sample with its weights in one convolution, whose groups are the samples."""
    num_samples, groups = len(x), settings["groups"]
    y = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),  # [1, B in, height, width]
        weights.flatten(0, 1),  # [B out, in / groups, k, k]
        **{**settings, "groups": num_samples * groups},
    )
    return y.view(num_samples, -1, *y.shape[2:])


def convolve_in_turn(x: Tensor, weights: Tensor, settings: dict[str, Any]) -> Tensor:
    """The same, sample by sample."""
    # On a CPU faster than groups: 7 times for the 5x5 depthwise layers of EfficientNet-B0 at
    # batch 8, because channels of all samples in a row leave the layout of channels last.
    each: Sequence[Tensor] = [
        F.conv2d(x[i : i + 1], weight, **settings) for i, weight in enumerate(weights)
    ]
    return each[0] if len(each) == 1 else torch.cat(list(each))
