"""A small dilated residual network for keyword spotting.

Tang and Lin 2018, "Deep Residual Learning for Small-Footprint Keyword Spotting".
Few channels, full resolution from the first layer to the last, and a dilation that doubles with
every third convolution, so that the receptive field of the last one exceeds a second of sound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

from torch import Tensor, nn

from bench.types import Range, TaskSpec
from methods.trunk.conv import (
    ConvTrunk,
    MapBlock,
    MapStem,
    PoolHead,
    initialise,
    num_channels,
    refuse_replacements,
)
from methods.trunk.state import State


class DilatedLayer(nn.Module):
    """Convolution with ReLU, an optional addition, then a batch norm without parameters."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        # Padding equal to the dilation keeps height and width.
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        y = self.conv(x).relu_()  # [B, width, mels, frames]
        return self.norm(y if added is None else y + added)


class DilatedBlock(nn.Module):
    """Two layers; the input is added behind the second one's ReLU."""

    def __init__(self, first: DilatedLayer, second: DilatedLayer) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, state: State) -> State:
        return replace(state, x=self.second(self.first(state.x), added=state.x))


@dataclass
class Res15:
    """Dilated residual network for spectrograms and images; the defaults are res15.

    `num_blocks` residual blocks and one more layer; res15-narrow is `width=19`.
    """

    size: ClassVar[str] = "238 K parameters, 893 M MAC at 40x101"  # of the defaults

    width: Annotated[int, Range(1)] = 45
    num_blocks: Annotated[int, Range(0)] = 6

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> ConvTrunk:
        """The trunk for `spec`; `block(index, make)` replaces every block, the last layer included.

        Raises Unsupported for kinds that are no maps, and for `ffn` and `attention`.
        """
        refuse_replacements("res15", ffn=ffn, attention=attention)
        # The first convolution is unpadded: the paper's multiplies are those of 99 x 38 places.
        first = nn.Conv2d(num_channels("res15", spec), self.width, 3, bias=False)
        stem = MapStem(first, nn.ReLU(inplace=True))
        makes: list[Callable[[], nn.Module]] = [
            partial(self._make_residual, 2 * i) for i in range(self.num_blocks)
        ]
        # One more convolution, numbered on, because dilations depend on the number.
        makes.append(lambda: MapBlock(self._make_layer(2 * self.num_blocks)))
        made = [block(i, make) if block else make() for i, make in enumerate(makes)]
        widths = [self.width] * (len(made) + 1)
        trunk = ConvTrunk(spec, stem, made, widths, partial(PoolHead, spec.num_outputs))
        initialise(trunk)
        return trunk

    def narrowed(self, share: float) -> Res15:
        """The same network with `share` of the channels (rounded)."""
        return replace(self, width=max(1, round(self.width * share)))

    def _make_residual(self, first: int) -> DilatedBlock:
        return DilatedBlock(self._make_layer(first), self._make_layer(first + 1))

    def _make_layer(self, number: int) -> DilatedLayer:
        return DilatedLayer(self.width, dilation=2 ** (number // 3))
