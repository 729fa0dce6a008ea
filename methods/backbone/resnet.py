"""Residual networks for small and for large images (He et al. 2016, Deep Residual Learning).

For CIFAR (section 4.2 of the paper): a 3x3 convolution, three stages of basic blocks, shortcuts
that pad new channels with zeros (option A). For ImageNet: a 7x7 convolution and a max-pool, four
stages of basic or bottleneck blocks, projections where the shape changes (option B). A bottleneck's
stride is in its first layer (v1, the paper) or in its 3x3 layer ("v1.5", Goyal et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import OneOf, Range, TaskSpec, check_fields
from methods.trunk.conv import (
    ConvTrunk,
    MapStem,
    PoolHead,
    conv_norm,
    initialise,
    num_channels,
    refuse_replacements,
)
from methods.trunk.state import State

EXPANSION = 4  # of a bottleneck block: its outputs / its inner width


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + layers(x)) on feature maps."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, state: State) -> State:
        # In place: the result of `layers` is used nowhere else.
        x = self.layers(state.x).add_(self.shortcut(state.x)).relu_()
        return replace(state, x=x)


class PadShortcut(nn.Module):
    """Every `stride`-th place, with zeros in the new channels: no parameters, no FLOPs (option A).

    [B, inputs, height, width] -> [B, outputs, height / stride, width / stride].
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        before = (self.outputs - self.inputs) // 2
        # F.pad counts from the last axis: width, height, then channels on both sides.
        return F.pad(x, (0, 0, 0, 0, before, self.outputs - self.inputs - before))


@dataclass
class ResNet:
    """Residual network for images and spectrograms; the defaults are CIFAR's ResNet-20.

    `blocks` and `widths`: blocks and (inner) channels of each stage; every stage after the first
    halves height and width. `stem`: "small" keeps the size, "large" quarters it. `shortcut`:
    "pad" or "projection". `stride_in`: which layer of a bottleneck block has the stride, "1x1" (v1)
    or "3x3" (v1.5).
    """

    size: ClassVar[str] = "270 K parameters, 40.6 M MAC at 3x32x32"  # of the defaults

    blocks: list[Annotated[int, Range(1)]] = field(default_factory=lambda: [3, 3, 3])
    widths: list[Annotated[int, Range(1)]] = field(default_factory=lambda: [16, 32, 64])
    bottleneck: bool = False
    stem: Annotated[str, OneOf("small", "large")] = "small"
    shortcut: Annotated[str, OneOf("pad", "projection")] = "pad"
    stride_in: Annotated[str, OneOf("1x1", "3x3")] = "3x3"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that make no network."""
        check_fields(self)
        if len(self.blocks) != len(self.widths) or not self.blocks:
            raise ValueError(f"blocks={self.blocks}, widths={self.widths}: one of each per stage")
        if self.shortcut == "pad" and self.widths != sorted(self.widths):
            raise ValueError(f"widths={self.widths}: a padding shortcut cannot drop channels")

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> ConvTrunk:
        """The trunk for `spec`; `block(index, make)` replaces every residual block.

        Raises Unsupported for kinds that are no maps, and for `ffn` and `attention`.
        """
        refuse_replacements("resnet", ffn=ffn, attention=attention)
        stem = self._make_stem(num_channels("resnet", spec))
        made: list[nn.Module] = []
        channels = [self.widths[0]]  # of the maps after 0, 1, ... blocks
        for stage, (num_blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for i in range(num_blocks):
                stride = 2 if stage > 0 and i == 0 else 1  # the first block of a later stage
                make = partial(self._make_block, channels[-1], width, stride)
                made.append(block(len(made), make) if block else make())
                channels.append(width * (EXPANSION if self.bottleneck else 1))
        trunk = ConvTrunk(spec, stem, made, channels, partial(PoolHead, spec.num_outputs))
        initialise(trunk)
        return trunk

    def narrowed(self, share: float) -> ResNet:
        """The same network with `share` of the channels (rounded) everywhere."""
        return replace(self, widths=[max(1, round(width * share)) for width in self.widths])

    def _make_stem(self, inputs: int) -> MapStem:
        relu = nn.ReLU(inplace=True)
        if self.stem == "small":
            return MapStem(conv_norm(inputs, self.widths[0], 3, activation=relu))
        return MapStem(
            conv_norm(inputs, self.widths[0], 7, stride=2, activation=relu),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def _make_block(self, inputs: int, width: int, stride: int) -> ResidualBlock:
        # The last layer has no activation: ResidualBlock's comes after the sum.
        relu = nn.ReLU(inplace=True)
        if not self.bottleneck:
            layers = nn.Sequential(
                conv_norm(inputs, width, 3, stride=stride, activation=relu),
                conv_norm(width, width, 3),
            )
            return ResidualBlock(layers, self._make_shortcut(inputs, width, stride))
        # v1.5 strides in the 3x3 layer: more FLOPs than v1, whose first layer skips places.
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        layers = nn.Sequential(
            conv_norm(inputs, width, 1, stride=first, activation=relu),
            conv_norm(width, width, 3, stride=second, activation=relu),
            conv_norm(width, width * EXPANSION, 1),
        )
        return ResidualBlock(layers, self._make_shortcut(inputs, width * EXPANSION, stride))

    def _make_shortcut(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        if inputs == outputs and stride == 1:
            return nn.Identity()
        if self.shortcut == "pad":
            return PadShortcut(inputs, outputs, stride)
        return conv_norm(inputs, outputs, 1, stride=stride)
