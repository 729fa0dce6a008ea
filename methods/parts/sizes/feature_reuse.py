"""A first pass over a small image helps the next one over a larger image.

Wang et al. 2021, Not All Images are Worth 16x16 Words (DVT): the last tokens of the earlier pass
are transformed, upsampled to the larger grid and read by every block. There the feed-forward layer
has a few more inputs; here they are added to the block's input, so that the block stays as it is.
What is added is zero at first: the pass then equals one without help.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.sizes.image_sizes import Size
from methods.trunk.state import State


class TokenReuse(nn.Module):
    """For tokens in a grid, read before every block; a class token is not read and reads nothing.

    `old` and `new` are the grids of the two passes.
    """

    def __init__(self, dim: int, depth: int, width: int, old: Size, new: Size) -> None:
        super().__init__()
        self.old, self.new = old, new
        self.squeeze = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU())
        self.expand = nn.ModuleList(nn.Linear(width, dim, bias=False) for _ in range(depth))
        _silence(self.expand)

    def read(self, state: State) -> Tensor:
        """The earlier pass's last state, squeezed and upsampled once for all: [B, T, width]."""
        num_extra = state.x.shape[1] - self.old[0] * self.old[1]  # 1 with a class token
        few = self.squeeze(state.x[:, num_extra:])  # [B, old tokens, width]
        maps = few.transpose(1, 2).unflatten(2, self.old)
        maps = F.interpolate(maps, size=self.new, mode="bilinear", align_corners=False)
        return F.pad(maps.flatten(2).transpose(1, 2), (0, 0, num_extra, 0)).contiguous()

    def add(self, number: int, state: State, earlier: Tensor) -> State:
        """`state` before block `number`, plus what it reads of `earlier`, as `read` gives it."""
        return state.with_x(state.x + self.expand[number](earlier))


class MapReuse(nn.Module):
    """For feature maps, read before the blocks of the second half.

    `channels` before the first block, and after each. Earlier blocks have the largest maps, and
    have no use for the last block's features.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.first = (len(channels) - 1) // 2
        self.squeeze = nn.Sequential(nn.Conv2d(channels[-1], width, 1), nn.GELU())
        inputs = channels[self.first : -1]
        self.expand = nn.ModuleList(nn.Conv2d(width, each, 1, bias=False) for each in inputs)
        _silence(self.expand)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def read(self, state: State) -> Tensor:
        """The earlier pass's last maps, squeezed: [B, width, height, width]."""
        few: Tensor = self.squeeze(state.x)
        return few

    def add(self, number: int, state: State, earlier: Tensor) -> State:
        """As `TokenReuse.add`; upsampled to the maps of each block."""
        if number < self.first:
            return state
        fitting = F.interpolate(earlier, size=state.x.shape[2:], mode="nearest")
        return state.with_x(state.x + self.expand[number - self.first](fitting))


def _silence(layers: nn.ModuleList) -> None:
    """Zero weights: at first every block works as if nothing were read."""
    for layer in layers:
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
