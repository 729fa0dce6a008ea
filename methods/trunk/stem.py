"""From raw inputs to tokens: stems for images, spectrograms, text, and pairs of sequences."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.types import Batch, Unsupported
from methods.trunk.positions import add_table
from methods.trunk.state import State

STRIDES = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 1, 2), 8: (2, 2, 2)}  # of the three convolutions
POSITION_DEVIATION = 0.3  # of learned positions at initialisation: about that of an image's tokens


class ImageStem(nn.Module):
    """Three 3x3 convolutions: image [B, channels, height, width] -> a token per `stride` pixels.

    A spectrogram [B, mels, frames] is an image of one channel (Gong et al. 2021, AST).

    A convolutional stem trains far faster on small images than single-pixel patches do
    (Xiao et al. 2021, "Early Convolutions Help Transformers See Better"). With `class_token`, a
    learned token comes first. Raises ValueError for a stride that is not in STRIDES.
    """

    positions: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int,
        stride: int,
        *,
        positions: str = "learned",
        class_token: bool = False,
    ) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"image_stride is one of {list(STRIDES)}, not {stride}")
        channels, height, width = shape
        num_tokens = -(-height // stride) * -(-width // stride)  # rounded up, as padding=1 does
        first, second, third = STRIDES[stride]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, dim // 4, 3, stride=first, padding=1),
            # One group: a layer norm over the map. Batch norm would tie a sample to its batch.
            nn.GroupNorm(1, dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 2, 3, stride=second, padding=1),
            nn.GroupNorm(1, dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=third, padding=1),
        )
        add_table(self, positions, num_tokens + class_token, dim, POSITION_DEVIATION)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None

    def forward(self, batch: Batch) -> State:
        return State(as_tokens(self.layers(as_images(batch)), self.class_token, self.positions))


class PatchStem(nn.Module):
    """One linear layer per patch of `size` x `size` pixels (Dosovitskiy et al. 2021, ViT).

    With `class_token`, a learned token comes first. Raises Unsupported for images that the patches
    do not tile.
    """

    positions: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int,
        size: int,
        *,
        positions: str = "learned",
        class_token: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if height % size or width % size:
            raise Unsupported(f"patches of {size} pixels do not tile {height} x {width}")
        self.layers = nn.Conv2d(channels, dim, size, stride=size)  # = the linear layer per patch
        num_tokens = (height // size) * (width // size)
        add_table(self, positions, num_tokens + class_token, dim, 0.02)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None

    def forward(self, batch: Batch) -> State:
        return State(as_tokens(self.layers(as_images(batch)), self.class_token, self.positions))


def as_images(batch: Batch) -> Tensor:
    """Images as they are; spectrograms [B, mels, frames] with a channel [B, 1, mels, frames]."""
    return batch.inputs if batch.inputs.dim() == 4 else batch.inputs[:, None]


def as_tokens(features: Tensor, class_token: Tensor | None, positions: Tensor | None) -> Tensor:
    """Tokens [B, T, D] of features [B, D, height, width], class token first, positions added."""
    tokens = features.flatten(2).transpose(1, 2)  # [B, T, D]
    if class_token is None:
        # A transposed layout would survive every later addition, and slow every layer down.
        tokens = tokens.contiguous()
    else:
        tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], 1)
    return tokens if positions is None else tokens + positions


class TokenStem(nn.Module):
    """Token embedding plus positions; at most `length` tokens.

    Embeddings are multiplied by `scale` (Vaswani et al. 2017: sqrt D), and then initialised with
    deviation 1 / scale instead of 0.02.
    """

    positions: Tensor | None

    def __init__(
        self,
        vocab_size: int,
        length: int,
        dim: int,
        *,
        positions: str = "learned",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.length, self.scale = length, scale
        self.embedding = nn.Embedding(vocab_size, dim)
        add_table(self, positions, length, dim, 0.02)
        nn.init.normal_(self.embedding.weight, std=0.02 if scale == 1.0 else 1 / scale)

    def forward(self, batch: Batch, offset: int = 0) -> State:
        """Tokens of `batch.inputs` [B, T], whose first is at position `offset`."""
        return State(self.embed(batch.inputs, offset), mask=batch.mask)

    def embed(self, symbols: Tensor, offset: int = 0) -> Tensor:
        """[B, T] -> [B, T, D]."""
        x = self.embedding(symbols)
        if self.scale != 1.0:
            x = x * self.scale
        if self.positions is None:  # rotary
            return x
        # A slice: shorter sequences are fine, and generation continues at `offset`.
        return x + self.positions[offset : offset + symbols.shape[1]]


class PairStem(nn.Module):
    """An encoder and the decoder's embedding: the state is the decoder's, the memory the encoder's.

    `blocks` run over the source; `norm` is the final norm of a pre-norm encoder; `padding` is the
    padding symbol of decoder inputs, None for none.
    """

    def __init__(
        self,
        source: TokenStem,
        blocks: list[nn.Module],
        norm: nn.Module,
        target: TokenStem,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.target, self.padding = source, target, padding
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, batch: Batch) -> State:
        """Source tokens through the encoder, `batch.decoder_inputs` [B, T] embedded."""
        assert batch.decoder_inputs is not None
        # The encoder's blocks must not see the target, whatever a method puts in their place.
        state = self.source(replace(batch, decoder_inputs=None))
        for block in self.blocks:
            state = block(state)
        return State(
            self.target.embed(batch.decoder_inputs),
            # A decoder's padding comes last and needs no attention mask; routing must not count it.
            routed=None if self.padding is None else batch.decoder_inputs != self.padding,
            aux_loss=state.aux_loss,  # of routed layers in the encoder
            memory=self.norm(state.x),
            memory_mask=batch.mask,
        )
