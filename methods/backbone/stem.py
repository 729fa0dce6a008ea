"""From raw inputs to tokens: one stem per kind of task, each with learned positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.types import Batch
from methods.backbone.trunk import State

STRIDES = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 1, 2), 8: (2, 2, 2)}
POSITION_DEVIATION = 0.3  # of the learned positions at the start: about that of an image's tokens


class ImageStem(nn.Module):
    """Three 3x3 convolutions: image [B, channels, height, width] -> a token per `stride` pixels.

    A spectrogram [B, mels, frames] is an image of one channel (Gong et al. 2021, AST).

    A convolutional stem trains far faster on small images than single-pixel patches do
    (Xiao et al. 2021, "Early Convolutions Help Transformers See Better").
    """

    def __init__(self, shape: tuple[int, ...], dim: int, stride: int) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"image_stride is one of {list(STRIDES)}, not {stride}")
        channels, height, width = shape
        num_tokens = -(-height // stride) * -(-width // stride)
        first, second, third = STRIDES[stride]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, dim // 4, 3, stride=first, padding=1),
            nn.GroupNorm(1, dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 2, 3, stride=second, padding=1),
            nn.GroupNorm(1, dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=third, padding=1),
        )
        self.positions = nn.Parameter(torch.randn(num_tokens, dim) * POSITION_DEVIATION)

    def forward(self, batch: Batch) -> State:
        images = batch.inputs if batch.inputs.dim() == 4 else batch.inputs[:, None]
        tokens: Tensor = self.layers(images).flatten(2).transpose(1, 2)  # [B, T, D]
        # Every later addition would keep the transposed layout, and every layer would pay for it.
        return State(tokens.contiguous() + self.positions)


class TokenStem(nn.Module):
    """Token embedding plus learned positions; at most `length` tokens."""

    def __init__(self, vocab_size: int, length: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, batch: Batch) -> State:
        x = self.embedding(batch.inputs) + self.positions[: batch.inputs.shape[1]]  # [B, T, D]
        return State(x, mask=batch.mask)
