"""A trunk on smaller images: the same weights, on fewer pixels and so fewer tokens.

Convolutional trunks have batch norms of their own at every size, because the statistics of maps
change with it (Wang et al. 2020, Resolution Switchable Networks; Zhu et al. 2021, Dynamic
Resolution Network). Transformers have positions of their own, which begin as the full table,
interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Batch, TaskSpec, Unsupported
from methods.trunk.positions import sinusoids
from methods.trunk.stem import as_images
from methods.trunk.trunk import Trunk
from methods.trunk.views import own_norms, twin, view

Size = tuple[int, int]  # height and width


class ScaledStem(nn.Module):
    """`stem` on images that are averaged down to `size`."""

    def __init__(self, stem: nn.Module, size: Size) -> None:
        super().__init__()
        self.stem, self.size = stem, size

    def forward(self, batch: Batch) -> Any:
        images = F.adaptive_avg_pool2d(as_images(batch), self.size)
        return self.stem(replace(batch, inputs=images))


def at_sizes(trunk: Trunk, resolutions: Sequence[float]) -> list[Trunk]:
    """A view of `trunk` for each share of height and width; `trunk` itself where that is 1.

    Raises Unsupported for a task without pixels, and for sizes that are no sizes or equal.
    """
    spec = trunk.spec
    if spec.kind not in ("image", "audio"):
        raise Unsupported(f"resolutions need images or spectrograms, not {spec.kind}")
    sizes = [scaled(spec, _patch(trunk), share) for share in resolutions]
    if len(set(sizes)) < len(sizes):
        raise Unsupported(f"resolutions {list(resolutions)} of this task are the sizes {sizes}")
    full = full_size(spec)
    return [trunk if size == full else _at_size(trunk, size) for size in sizes]


def full_size(spec: TaskSpec) -> Size:
    """Height and width of the task's images or spectrograms."""
    height, width = spec.input_shape[-2:]
    return height, width


def scaled(spec: TaskSpec, patch: int, share: float) -> Size:
    """`share` of the image's height and width, in whole patches of `patch` pixels.

    Raises Unsupported where that is less than one patch.
    """
    height, width = full_size(spec)
    if share == 1.0:
        return height, width
    if share * min(height, width) < patch:
        pixels = f"{share:g} of {height} x {width} pixels"
        raise Unsupported(f"resolution {pixels} is below one patch of {patch} x {patch}")
    tall, wide = (max(1, round(share * side / patch)) * patch for side in (height, width))
    return tall, wide


def _patch(trunk: Trunk) -> int:
    """Pixels along each axis that one place of the stem's result stands for."""
    layers = [m for m in trunk.stem.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
    strides = [layer.stride for layer in layers]
    return math.prod(s if isinstance(s, int) else s[0] for s in strides)


def _at_size(trunk: Trunk, size: Size) -> Trunk:
    new = twin(trunk) if trunk.tokens else view(trunk, own_norms)
    if new is trunk:  # a convolutional trunk without batch norms
        new = twin(trunk)
    stem = _with_positions(trunk, size) if trunk.tokens else new.stem
    new.stem = ScaledStem(stem, size)
    return new


def _with_positions(trunk: Trunk, size: Size) -> Any:
    """The stem with positions for images of `size`."""
    stem: Any = trunk.stem
    if not hasattr(stem, "layers") or not hasattr(stem, "positions"):
        raise Unsupported(f"{type(stem).__name__} has no map of tokens to make smaller")
    if stem.positions is None:  # rotary: attention counts tokens
        return stem
    new: Any = twin(stem)
    tall, wide = _grid(stem, trunk.spec, size)
    if isinstance(stem.positions, nn.Parameter):
        whole = _grid(stem, trunk.spec, full_size(trunk.spec))
        table = resized(stem.positions.detach(), whole, (tall, wide))
        new._parameters = {**stem._parameters, "positions": nn.Parameter(table)}
    else:
        length = tall * wide + trunk.class_token
        table = sinusoids(length, trunk.dim).to(stem.positions)
        new._buffers = {**stem._buffers, "positions": table}
    return new


def token_grid(stem: Any, spec: TaskSpec) -> Size:
    """Rows and columns of the tokens that a stem, scaled or not, makes of an image."""
    if isinstance(stem, ScaledStem):
        return _grid(stem.stem, spec, stem.size)
    return _grid(stem, spec, full_size(spec))


@torch.no_grad()
def _grid(stem: Any, spec: TaskSpec, size: Size) -> Size:
    channels = spec.input_shape[0] if spec.kind == "image" else 1
    layers = deepcopy(stem.layers).to("meta")  # only the shape matters
    height, width = layers(torch.zeros(1, channels, *size, device="meta")).shape[2:]
    return height, width


def resized(table: Tensor, old: Size, new: Size) -> Tensor:
    """A table of positions [T, D] of a grid, interpolated to another; a class token's stays first.

    T is old height x old width, plus one with a class token.
    """
    extra = len(table) - old[0] * old[1]
    maps = table[extra:].t().unflatten(1, old)[None]  # [1, D, height, width]
    maps = F.interpolate(maps, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:extra], maps[0].flatten(1).t()])
