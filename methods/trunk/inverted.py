"""Inverted bottlenecks in stages: the common structure of MobileNet V2 and EfficientNet.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from bench.types import TaskSpec
from methods.trunk.conv import (
    ConvTrunk,
    MapBlock,
    MapStem,
    PoolHead,
    conv_norm,
    initialise,
    kept_strides,
)

Activation = Callable[[], nn.Module]
# Of every stage: expansion, kernel, output channels, number of blocks, stride of the first block.
Stages = tuple[tuple[int, int, int, int, int], ...]


class InvertedResidual(nn.Module):
    """Widen (1x1), filter (depthwise), weigh channels, narrow (1x1); each but the last activated.

    The input is added where the shape stays. `weigh(inputs, channels)` makes the module that
    weighs the widened channels of the maps; None for none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        kernel: int,
        stride: int,
        activation: Activation,
        weigh: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.adds = inputs == outputs and stride == 1
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:  # the first stage expands by 1: there the 1x1 layer would be an identity
            layers.append(conv_norm(inputs, wide, 1, activation=activation()))
        layers.append(
            conv_norm(wide, wide, kernel, stride=stride, groups=wide, activation=activation())
        )
        if weigh is not None:
            layers.append(weigh(inputs, wide))
        # No activation behind the narrow layer: a ReLU on few channels loses information
        # (Sandler et al. 2018, section 3.2).
        self.layers = nn.Sequential(*layers, conv_norm(wide, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, height, width] -> [B, outputs, height / stride, width / stride]."""
        y: Tensor = self.layers(x)
        return y.add_(x) if self.adds else y  # in place: y is this block's own


def inverted_trunk(
    spec: TaskSpec,
    inputs: int,
    stages: Stages,
    *,
    width: float,
    last: int,
    num_halvings: int,
    activation: Activation,
    weigh: Callable[[int, int], nn.Module] | None = None,
    block: Callable[..., nn.Module] | None = None,
) -> ConvTrunk:
    """A 3x3 layer with 32 channels, the stages, a 1x1 layer with `last` channels, the pooling head.

    `inputs` are the task's channels; the others but `last` are multiplied by `width` and rounded to
    eights. The last `num_halvings` strides are kept. `block` as in `build`.
    """
    channels = [in_eights(32 * width)]  # of the maps after 0, 1, ... blocks
    first, *strides = kept_strides([2, *(stage[-1] for stage in stages)], num_halvings)
    stem = conv_norm(inputs, channels[0], 3, stride=first, activation=activation())
    makes: list[Callable[[], nn.Module]] = []  # factories: a method's `block` may not call them
    for (expansion, kernel, wide, num_blocks, _), stride in zip(stages, strides, strict=True):
        make = partial(
            InvertedResidual,
            expansion=expansion,
            kernel=kernel,
            activation=activation,
            weigh=weigh,
        )
        outputs = in_eights(wide * width)
        for i in range(num_blocks):  # the first block of a stage halves and widens
            makes.append(partial(make, channels[-1], outputs, stride=stride if i == 0 else 1))
            channels.append(outputs)
    makes.append(partial(_make_last, channels[-1], last, activation))
    channels.append(last)
    return _assemble(spec, stem, makes, channels, block)


def _assemble(
    spec: TaskSpec,
    stem: nn.Module,
    makes: list[Callable[[], nn.Module]],
    channels: list[int],
    block: Callable[..., nn.Module] | None,
) -> ConvTrunk:
    """The trunk of these blocks, each wrapped as State -> State, with the pooling head."""
    wrapped = [partial(_make_block, make) for make in makes]
    made = [block(i, make) if block else make() for i, make in enumerate(wrapped)]
    trunk = ConvTrunk(spec, MapStem(stem), made, channels, partial(PoolHead, spec.num_outputs))
    initialise(trunk)
    return trunk


def in_eights(channels: float) -> int:
    """The nearest multiple of 8, 8 or more, and never less than 90 % of `channels`."""
    # Multiples of 8 keep rows aligned for vector units; the papers round so, and published counts
    # of parameters and MAC are met only this way.
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _make_last(inputs: int, outputs: int, activation: Activation) -> nn.Module:
    """The 1x1 layer before the head."""
    return conv_norm(inputs, outputs, 1, activation=activation())


def _make_block(make: Callable[[], nn.Module]) -> MapBlock:
    return MapBlock(make())
