"""The control for token reduction: the dense model on a smaller image.

Half the pixels along each axis are a quarter of the tokens. If a model trained on small images is
as good as one that reduces tokens to the same FLOPs, choosing among them was worth nothing. The
input is averaged over areas, and the model is built for its size: nothing is converted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch.nn.functional as F
from torch import nn

from bench.types import Backbone, Batch, Output, Range, TaskSpec, Unsupported


@dataclass
class Downsample:
    """The backbone on images of `resolution` times the height and width, trained from scratch.

    Sizes are rounded to whole tokens where the backbone has an `image_stride`.
    """

    resolution: Annotated[float, Range(gt=0, le=1)] = 0.75

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The trunk for the smaller image. Raises Unsupported for anything but images."""
        if spec.kind != "image":
            raise Unsupported(f"only images are made smaller, not the inputs of {spec.kind} tasks")
        channels, *size = spec.input_shape
        stride = int(getattr(backbone, "image_stride", 1))
        height, width = (smaller(pixels, self.resolution, stride) for pixels in size)
        small = backbone.build(replace(spec, input_shape=(channels, height, width)))
        found: nn.Module = small
        if [height, width] != size:
            found = Downsampled(small, (height, width))
        return found


def smaller(num_pixels: int, resolution: float, stride: int) -> int:
    """The multiple of `stride` nearest to `resolution` of the pixels; all of them at 1."""
    if resolution == 1.0:
        return num_pixels
    return max(1, round(num_pixels * resolution / stride)) * stride


class Downsampled(nn.Module):
    """`trunk` on images that are averaged down to `size`, height and width."""

    def __init__(self, trunk: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.trunk, self.size = trunk, size

    def forward(self, batch: Batch) -> Output:
        # The mean over areas, not points between pixels: nothing aliases.
        inputs = F.adaptive_avg_pool2d(batch.inputs, self.size)
        output: Output = self.trunk(replace(batch, inputs=inputs))
        return output
