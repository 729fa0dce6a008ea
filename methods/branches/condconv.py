"""CondConv: the weights of a layer are mixed anew for every sample; nothing is skipped.

Yang et al. 2019, CondConv: Conditionally Parameterized Convolutions for Efficient Inference.
r(x) = sigmoid(R mean(x)) weighs E experts, and W(x) = sum_e r_e(x) W_e is the one kernel that runs.
Capacity grows with E and the cost does not fall: mixing adds E multiplications per weight. The
counter-example among conditional methods, whose FLOP ratio to dense is below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bench.routing import SAMPLE_CHOICES, decide, region
from bench.types import Backbone, Range, TaskSpec, Unsupported
from methods.parts.weights.mixed_layers import MixedConv2d, MixedLinear, Mixture
from methods.trunk.feedforward import FeedForward, GatedFeedForward
from methods.trunk.head import mean_token, pooled
from methods.trunk.state import State
from methods.trunk.trunk import swap


@dataclass
class CondConv:
    """Mixed weights in the last `share` of the blocks, trained from scratch.

    Convolutional trunks: in every convolution of a residual block; blocks of a single convolution,
    such as the last 1x1 layer of EfficientNet, stay as they are. Transformers: in the linear layers
    of the feed-forward half. The layers of a block share one router of `num_experts` outputs.
    """

    compaction = "nothing is skipped: every sample runs its own mixed weights"

    num_experts: Annotated[int, Range(1)] = 8
    share: Annotated[float, Range(gt=0, le=1)] = 0.5

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with mixed weights; raises Unsupported where a mean would look ahead."""
        if spec.causal or spec.kind == "seq2seq":
            raise Unsupported("mixed weights read the mean of all tokens: not causal")
        trunk: Any = backbone.build(spec)
        candidates = [i for i, block in enumerate(trunk.blocks) if _layers(block)]
        if not candidates:
            raise Unsupported("no block has a feed-forward layer or two convolutions to mix")
        for i in candidates[-math.ceil(len(candidates) * self.share) :]:
            self._mix(trunk, i)
        return trunk

    def _mix(self, trunk: Any, number: int) -> None:
        """Mix the weights of one block of `trunk` in place."""
        block, name = trunk.blocks[number], f"mix{number}"
        if trunk.tokens:
            block.ffn = MixedFeedForward(block.ffn, trunk.dim, self.num_experts, name)
        else:
            trunk.blocks[number] = MixedBlock(block, trunk.widths[number], self.num_experts, name)


class Router(nn.Module):
    """r = sigmoid(linear(features)): [B, D] -> [B, E], announced as weights that skip nothing."""

    def __init__(self, num_features: int, num_experts: int, name: str) -> None:
        super().__init__()
        self.name, self.linear = name, nn.Linear(num_features, num_experts)

    def forward(self, features: Tensor) -> Tensor:
        shares: Tensor = self.linear(features).sigmoid()
        decide(
            self.name,
            axes=SAMPLE_CHOICES,
            probabilities=shares,
            run=torch.ones_like(shares, dtype=torch.bool),
            cost=0.0,
            observed_only=True,
        )
        return shares


class MixedBlock(nn.Module):
    """A convolutional block whose layers are mixed by the mean of its input."""

    def __init__(self, block: nn.Module, channels: int, num_experts: int, name: str) -> None:
        super().__init__()
        self.router, self.mixture = Router(channels, num_experts, name), Mixture(num_experts)
        swap(block, nn.Conv2d, self._mixed)
        self.block = block

    def _mixed(self, path: str, old: nn.Conv2d) -> nn.Module | None:
        # The projection of a shortcut only fits shapes: the papers leave it as it is.
        return None if path.startswith("shortcut") else MixedConv2d(old, self.mixture)

    def forward(self, state: State) -> State:
        with region("router"):
            self.mixture.shares = self.router(pooled(state))
        new: State = self.block(state)
        return new


class MixedFeedForward(nn.Module):
    """A feed-forward layer whose weights are mixed by the mean of its input's real tokens."""

    takes_mask = True  # padding must not enter the mean

    def __init__(self, ffn: nn.Module, dim: int, num_experts: int, name: str) -> None:
        super().__init__()
        self.router, self.mixture = Router(dim, num_experts, name), Mixture(num_experts)
        swap(ffn, nn.Linear, lambda _, old: MixedLinear(old, self.mixture))
        self.ffn = ffn

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # [B, T, D]
        with region("router"):
            self.mixture.shares = self.router(mean_token(State(x, mask=mask)))
        y: Tensor = self.ffn(x)
        return y


def _layers(block: nn.Module) -> list[nn.Module]:
    """The layers of a block that would be mixed; none where it is a single convolution."""
    ffn = getattr(block, "ffn", None)
    if isinstance(ffn, FeedForward | GatedFeedForward):
        return [m for m in ffn.modules() if isinstance(m, nn.Linear)]
    found: list[nn.Module] = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    return found if len(found) > 1 else []
