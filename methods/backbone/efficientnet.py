"""EfficientNet-B0: inverted bottlenecks with squeeze-and-excitation (Tan and Le 2019).

Squeeze-and-excitation (Hu et al. 2018) weighs a block's channels by the mean of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Range, TaskSpec, check_fields
from methods.trunk.conv import (
    ConvTrunk,
    num_channels,
    refuse_replacements,
)
from methods.trunk.inverted import Stages, in_eights, inverted_trunk

# Table 1 of the paper, its rows 2 to 8; columns as `inverted.Stages` defines them.
STAGES: Stages = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class SqueezeExcite(nn.Module):
    """Each of `channels` times sigmoid(W2 silu(W1 mean)), a quarter of `inputs` in between."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        squeezed = max(1, inputs // 4)  # a quarter of the block's input, not of the widened maps
        # Linear layers on [B, C]: the same products as 1x1 convolutions on [B, C, 1, 1].
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, height, width] -> the same."""
        weight = self.excite(F.silu(self.squeeze(x.mean((2, 3)))))  # [B, C]
        return x * weight.sigmoid()[..., None, None]


@dataclass
class EfficientNet:
    """EfficientNet-B0, all channels times `width`; for 224 x 224 pixels with all five halvings.

    Fewer `num_halvings` leave out the earliest, for small images. As at inference: without the
    dropout and the stochastic depth of the paper's training.
    """

    size: ClassVar[str] = "5.29 M parameters, 386 M MAC at 3x224x224"  # of the defaults

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
        refuse_replacements("efficientnet", ffn=ffn, attention=attention)
        return inverted_trunk(
            spec,
            num_channels("efficientnet", spec),
            STAGES,
            width=self.width,
            last=in_eights(1280 * self.width),  # scales too, unlike in MobileNet V2
            num_halvings=self.num_halvings,
            activation=partial(nn.SiLU, inplace=True),
            weigh=SqueezeExcite,
            block=block,
        )

    def narrowed(self, share: float) -> EfficientNet:
        """The same network with `share` of the channels."""
        return replace(self, width=self.width * share)
