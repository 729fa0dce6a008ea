"""The control that papers omit: a smaller dense model at the same executed FLOPs.

If half the network is as good at half the FLOPs, a router's decisions were worth nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import nn

from bench.types import Backbone, Range, TaskSpec, Unsupported
from methods.trunk.conv import sample_flops

NUM_HALVINGS = 9  # steps of 1/512 of the channels


@dataclass
class ShrunkDense:
    """The backbone with a `share` of its blocks' FLOPs: fewer and, for the rest, narrower blocks.

    A convolutional network keeps its depth and gets fewer channels. `feed_share`, instead of
    `share`: all blocks, with this share of the feed-forward layers' FLOPs. That equals a mixture
    of experts on every task, top_k x hidden_ratio + num_experts / (2 H), the last for its router.
    """

    share: Annotated[float, Range(gt=0, le=1)] = 0.5
    feed_share: Annotated[float | None, Range(gt=0)] = None

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The smaller trunk. Raises Unsupported for families without a dimension to shrink."""
        trunk: nn.Module = self.shrink(spec, backbone).build(spec)
        return trunk

    def shrink(self, spec: TaskSpec, backbone: Any) -> Any:
        """The backbone's dataclass with smaller `depth` and `hidden_multiple`.

        Takes the smallest depth that reaches the share, then narrows the feed-forward layers of all
        blocks to meet it. A family's own `narrowed(share)` is used instead where it has one.
        """
        if self.feed_share is not None:
            if not hasattr(backbone, "hidden_multiple"):
                raise Unsupported(f"{type(backbone).__name__} has no feed-forward layers to shrink")
            multiple = backbone.hidden_multiple * self.feed_share
            if multiple * backbone.dim < 1:
                raise Unsupported(f"feed_share={self.feed_share} leaves no neuron")
            return replace(backbone, hidden_multiple=multiple)
        if hasattr(backbone, "narrowed"):
            return self._narrow(spec, backbone)
        for name in ("depth", "hidden_multiple", "block_flops"):
            if not hasattr(backbone, name):
                raise Unsupported(f"{type(backbone).__name__} has no {name} to shrink")
        target = self.share * backbone.depth * backbone.block_flops(spec)
        # 1e-9: 0.1 x 10 must not become 2 blocks by rounding.
        depth = min(backbone.depth, math.ceil(self.share * backbone.depth - 1e-9))
        mix = replace(backbone, hidden_multiple=0.0).block_flops(spec)  # attention's part
        feed = backbone.block_flops(spec) - mix  # linear in the hidden width
        multiple = backbone.hidden_multiple * (target / depth - mix) / feed
        if multiple * backbone.dim < 1:
            raise Unsupported(f"share={self.share} leaves less than the attention of one block")
        return replace(backbone, depth=depth, hidden_multiple=multiple)

    def _narrow(self, spec: TaskSpec, backbone: Any) -> Any:
        """The share of the channels whose FLOPs come nearest; channels are whole numbers.

        Raises Unsupported where that misses the target by more than a tenth.
        """
        target = self.share * sample_flops(backbone, spec)
        # Bisection: FLOPs grow with the channels, but by no formula that fits every family.
        low, high = 0.0, 1.0  # of the channels: too few, and enough
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            if sample_flops(backbone.narrowed(middle), spec) < target:
                low = middle
            else:
                high = middle
        off, nearest = min(
            (abs(sample_flops(backbone.narrowed(share), spec) - target), share)
            for share in (low, high)
        )
        if off > 0.1 * target:
            raise Unsupported(f"no number of channels spends share={self.share} of the FLOPs")
        return backbone.narrowed(nearest)
