"""MobileNet V1 and V2: depthwise convolutions, and inverted bottlenecks.

Howard et al. 2017, "MobileNets"; Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear
Bottlenecks".

A depthwise convolution filters each channel by itself; 1x1 convolutions mix channels. V2 widens a
block's input, filters it depthwise, and narrows it again without an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

from torch import nn

from bench.types import Range, TaskSpec, check_fields
from methods.trunk.conv import (
    ConvTrunk,
    MapBlock,
    MapStem,
    PoolHead,
    conv_norm,
    initialise,
    kept_strides,
    num_channels,
    refuse_replacements,
)
from methods.trunk.inverted import Stages, in_eights, inverted_trunk

# Output channels and stride of every depthwise separable block of V1.
V1_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5)
V1_BLOCKS = (*V1_BLOCKS, (1024, 2), (1024, 1))
V2_STAGES: Stages = (  # Table 2 of the paper; columns as `inverted.Stages` defines them
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)


@dataclass
class MobileNetV1:
    """MobileNet V1, all channels times `width`; for 224 x 224 pixels with all five halvings.

    Fewer `num_halvings` leave out the earliest, for small images.
    """

    size: ClassVar[str] = "4.23 M parameters, 569 M MAC at 3x224x224"  # of the defaults

    width: Annotated[float, Range(gt=0)] = 1.0
    num_halvings: Annotated[int, Range(0, 5)] = 5

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        check_fields(self)

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> ConvTrunk:
        """The trunk for `spec`; `block(index, make)` replaces every separable block.

        Raises Unsupported for kinds that are no maps, and for `ffn` and `attention`.
        """
        refuse_replacements("mobilenet_v1", ffn=ffn, attention=attention)
        inputs = num_channels("mobilenet_v1", spec)
        # The activation has no parameters: one module serves the whole network.
        channels, relu = [self._scale(32)], nn.ReLU(inplace=True)
        first, *strides = kept_strides([2, *(s for _, s in V1_BLOCKS)], self.num_halvings)
        stem = conv_norm(inputs, channels[0], 3, stride=first, activation=relu)
        made = []
        for i, ((wide, _), stride) in enumerate(zip(V1_BLOCKS, strides, strict=True)):
            make = partial(_make_separable, channels[-1], self._scale(wide), stride)
            made.append(block(i, make) if block else make())
            channels.append(self._scale(wide))  # of the maps after each block, for exit heads
        make_head = partial(PoolHead, spec.num_outputs)
        trunk = ConvTrunk(spec, MapStem(stem), made, channels, make_head)
        initialise(trunk)
        return trunk

    def narrowed(self, share: float) -> MobileNetV1:
        """The same network with `share` of the channels."""
        return replace(self, width=self.width * share)

    def _scale(self, channels: int) -> int:
        # Rounded to whole channels only: V1 has no rule of eights.
        return max(1, round(channels * self.width))


def _make_separable(inputs: int, outputs: int, stride: int) -> MapBlock:
    """Depthwise 3x3, then 1x1, each with batch norm and ReLU."""
    relu = nn.ReLU(inplace=True)
    return MapBlock(
        nn.Sequential(
            # As many groups as channels: depthwise.
            conv_norm(inputs, inputs, 3, stride=stride, groups=inputs, activation=relu),
            conv_norm(inputs, outputs, 1, activation=relu),
        )
    )


@dataclass
class MobileNetV2:
    """MobileNet V2, all channels times `width`; for 224 x 224 pixels with all five halvings.

    Fewer `num_halvings` leave out the earliest, for small images. Channels are rounded to multiples
    of 8; the last layer stays at 1,280 or more.
    """

    size: ClassVar[str] = "3.5 M parameters, 301 M MAC at 3x224x224"  # of the defaults

    width: Annotated[float, Range(gt=0)] = 1.0
    num_halvings: Annotated[int, Range(0, 5)] = 5

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        check_fields(self)

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> ConvTrunk:
        """The trunk for `spec`; `block(index, make)` replaces every block, the last 1x1 included.

        Raises Unsupported for kinds that are no maps, and for `ffn` and `attention`.
        """
        refuse_replacements("mobilenet_v2", ffn=ffn, attention=attention)
        return inverted_trunk(
            spec,
            num_channels("mobilenet_v2", spec),
            V2_STAGES,
            width=self.width,
            last=in_eights(1280 * max(1.0, self.width)),  # never less than 1280 (section 4)
            num_halvings=self.num_halvings,
            activation=partial(nn.ReLU6, inplace=True),
            block=block,
        )

    def narrowed(self, share: float) -> MobileNetV2:
        """The same network with `share` of the channels."""
        return replace(self, width=self.width * share)
