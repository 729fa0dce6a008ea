"""Multi-scale dense networks: features at several scales, good enough for a head at any depth.

Huang et al. 2018, "Multi-Scale Dense Networks for Resource Efficient Image Classification". Every
layer reads all earlier ones of its scale and of the next finer scale. The coarsest maps exist from
the first layer on, and the heads read only them. As depth grows, the finest scales are dropped, and
a transition halves the channels of the others. The trunk has the last head; `early_exit` with
`every=1` puts one behind every block, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from bench.types import Batch, OneOf, Range, TaskSpec, check_fields
from methods.trunk.conv import (
    ConvTrunk,
    conv_norm,
    initialise,
    num_channels,
    refuse_replacements,
)
from methods.trunk.state import State, take_rows
from methods.trunk.stem import as_images


@dataclass
class MultiScale(State):
    """`x` are the coarsest maps, `finer` the others, finest first."""

    finer: tuple[Tensor, ...] = ()

    def select(self, rows: Tensor) -> State:
        """The samples in `rows` [n], at every scale."""
        # State's own `select` carries along its fields only.
        finer = tuple(take_rows(maps, rows) for maps in self.finer)
        return super(MultiScale, replace(self, finer=finer)).select(rows)


class FirstLayer(nn.Module):
    """From the input to `widths` channels per scale: a stem, then one stride-2 layer per scale."""

    def __init__(self, stem: nn.Module, widths: list[int]) -> None:
        super().__init__()
        coarser = [_conv(a, b, 3, stride=2) for a, b in pairwise(widths)]  # each from the finer one
        self.scales = nn.ModuleList([stem, *coarser])

    def forward(self, batch: Batch) -> State:
        x, found = as_images(batch), []
        for layer in self.scales:
            x = layer(x)  # [B, widths[s], height / 2^s, width / 2^s]
            found.append(x)
        return MultiScale(found[-1], finer=tuple(found[:-1]))


class DenseLayer(nn.Module):
    """Appends new channels to every scale: half from its own maps, half from the next finer ones.

    `inputs`: channels per incoming scale, finest first; `growths`: new channels per outgoing scale.
    With one scale less going out than coming in, the finest ends here. `factors` (per incoming
    scale): a bottleneck is at most that many times as wide as its output.
    """

    def __init__(self, inputs: list[int], growths: list[int], factors: list[int]) -> None:
        super().__init__()
        self.num_dropped = len(inputs) - len(growths)
        self.own, self.finer = nn.ModuleList(), nn.ModuleList()
        for i, growth in enumerate(growths, start=self.num_dropped):
            part = growth if i == 0 else growth // 2  # the finest scale has no finer one
            self.own.append(_bottleneck(inputs[i], part, factors[i], stride=1))
            if i > 0:
                made = _bottleneck(inputs[i - 1], part, factors[i - 1], stride=2)
                self.finer.append(made)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        grown, from_finer = [], iter(self.finer)
        for i, own in enumerate(self.own, start=self.num_dropped):
            parts = [maps[i]] if i == 0 else [maps[i], next(from_finer)(maps[i - 1])]
            # Dense connectivity: old channels stay in front, new ones are appended.
            grown.append(torch.cat([*parts, own(maps[i])], 1))
        return grown


class Transition(nn.Module):
    """A 1x1 layer at every scale that changes its number of channels."""

    def __init__(self, inputs: list[int], outputs: list[int]) -> None:
        super().__init__()
        pairs = zip(inputs, outputs, strict=True)
        self.layers = nn.ModuleList(_conv(a, b, 1) for a, b in pairs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [layer(each) for layer, each in zip(self.layers, maps, strict=True)]


class MultiScaleBlock(nn.Sequential):
    """Dense layers and transitions between two exits: State -> State."""

    def forward(self, state: MultiScale) -> State:
        maps = [*state.finer, state.x]  # finest first
        for layer in self:
            maps = layer(maps)
        return replace(state, x=maps[-1], finer=tuple(maps[:-1]))


class MultiScaleHead(nn.Module):
    """Two stride-2 layers on the coarsest maps, their mean, logits [B, classes]."""

    def __init__(self, num_outputs: int, hidden: int | None, channels: int) -> None:
        super().__init__()
        width = channels if hidden is None else hidden  # CIFAR: 128; ImageNet: null
        self.layers = nn.Sequential(
            _conv(channels, width, 3, stride=2), _conv(width, width, 3, stride=2)
        )
        self.linear = nn.Linear(width, num_outputs)

    def forward(self, state: State) -> Tensor:
        return self.linear(self.layers(state.x).mean((2, 3)))


@dataclass
class MSDNet:
    """Multi-scale dense network; the defaults are the paper's for CIFAR with growing blocks.

    `layers` of each block; `width` and `growth`: first and new channels of the finest scale, times
    `factors` at the others. `stem`: "small" keeps the size, "large" quarters it. `head_width`:
    channels inside a head, null for as many as its input has.
    """

    size: ClassVar[str] = "827 K parameters, 45.9 M MAC at 3x32x32"  # of the defaults

    layers: list[Annotated[int, Range(1)]] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    width: Annotated[int, Range(1)] = 16
    growth: Annotated[int, Range(1)] = 6
    factors: list[Annotated[int, Range(1)]] = field(default_factory=lambda: [1, 2, 4])
    stem: Annotated[str, OneOf("small", "large")] = "small"
    head_width: Annotated[int | None, Range(1)] = 128

    def __post_init__(self) -> None:
        """Raises ValueError for settings that make no network."""
        check_fields(self)
        for name in ("layers", "factors"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give at least one")

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> ConvTrunk:
        """The trunk for `spec`; `block(index, make)` replaces every block.

        Raises Unsupported for kinds that are no maps, and for `ffn` and `attention`.
        """
        refuse_replacements("msdnet", ffn=ffn, attention=attention)
        first = FirstLayer(self._make_stem(num_channels("msdnet", spec)), self._scale(self.width))
        made, widths = [], [self.width * self.factors[-1]]  # of the coarsest maps, which heads read
        for i, (plan, channels) in enumerate(self._plans()):
            make = partial(_make_block, plan)
            made.append(block(i, make) if block else make())
            widths.append(channels * self.factors[-1])
        make_head = partial(MultiScaleHead, spec.num_outputs, self.head_width)
        trunk = ConvTrunk(spec, first, made, widths, make_head)
        initialise(trunk)
        return trunk

    def _make_stem(self, inputs: int) -> nn.Module:
        if self.stem == "small":
            return _conv(inputs, self.width * self.factors[0], 3)
        layer = _conv(inputs, self.width * self.factors[0], 7, stride=2)
        return nn.Sequential(layer, nn.MaxPool2d(3, stride=2, padding=1))

    def _plans(self) -> Iterator[tuple[list[Callable[[], nn.Module]], int]]:
        """Factories of the layers of each block, and the finest scale's channels behind it.

        The depth is cut into as many equal parts as there are scales; each part but the first
        begins by dropping the finest scale left, and ends that layer with a transition.
        """
        # Factories, because a method's `block` may replace a block without building it. Channels
        # are counted in units of a scale's factor, and cut to the scales that are left.
        per_part = math.ceil(sum(self.layers) / len(self.factors))
        channels, number = self.width, 0  # `number`: layers planned so far, over all blocks
        for num_layers in self.layers:
            plan: list[Callable[[], nn.Module]] = []
            for _ in range(num_layers):
                dropped_before, dropped = max(0, number - 1) // per_part, number // per_part
                inputs = self._scale(channels)[dropped_before:]
                growths = self._scale(self.growth)[dropped:]
                plan.append(partial(DenseLayer, inputs, growths, self.factors[dropped_before:]))
                channels, number = channels + self.growth, number + 1
                if dropped > dropped_before:
                    before, channels = self._scale(channels)[dropped:], channels // 2
                    plan.append(partial(Transition, before, self._scale(channels)[dropped:]))
            yield plan, channels

    def _scale(self, channels: int) -> list[int]:
        """Channels of every scale: `channels` times its factor."""
        return [channels * factor for factor in self.factors]


def _make_block(plan: list[Callable[[], nn.Module]]) -> MultiScaleBlock:
    return MultiScaleBlock(*(make() for make in plan))


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    return conv_norm(inputs, outputs, kernel, stride=stride, activation=nn.ReLU(inplace=True))


def _bottleneck(inputs: int, outputs: int, factor: int, *, stride: int) -> nn.Sequential:
    inner = min(inputs, factor * outputs)  # never wider than its input: it would save nothing
    return nn.Sequential(_conv(inputs, inner, 1), _conv(inner, outputs, 3, stride=stride))
