"""The transformer: encoder where a sample gets a label, causal decoder, encoder-decoder.

The defaults are pre-norm blocks with a GELU feed-forward layer, as in ViT (Dosovitskiy et al. 2021)
and GPT-2 (Radford et al. 2019). The modern block (RMSNorm, rotary positions, grouped-query
attention, SwiGLU: Touvron et al. 2023, Llama) and the first one (Vaswani et al. 2017) are settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from torch import nn

from bench.types import OneOf, Range, TaskSpec, check_fields
from methods.trunk.block import Block, MakeNorm, attention_mask
from methods.trunk.feedforward import ACTIVATIONS, GATED, FeedForward, GatedFeedForward
from methods.trunk.head import Head, mean_token
from methods.trunk.positions import KINDS
from methods.trunk.stem import STRIDES
from methods.trunk.transformer_parts import (
    MakeAttention,
    MakeBlock,
    MakeFeed,
    TransformerParts,
)
from methods.trunk.trunk import Trunk

# Layers that methods replace or extend: importable beside the family that is made of them.
__all__ = [
    "Block",
    "FeedForward",
    "GatedFeedForward",
    "Head",
    "Transformer",
    "attention_mask",
    "mean_token",
]


@dataclass
class Transformer:
    """Encoder for images, spectrograms and labelled text; decoder for text; both for pairs.

    The defaults are the quickstart's size. `depth` counts the encoder's blocks and the decoder's,
    each, in an encoder-decoder. `hidden_multiple` is H / D, `image_stride` how many pixels (or mel
    bands and frames) share a token along each axis: the patch size of `stem=patch`.

    `pool=class`: the head reads a learned class token of an image. `norm_first=false`: norms after
    the sums, no final one. `num_kv_heads`: heads of keys and values, null for as many as queries
    have. `bias=false`: none in linear layers, norms and head. `tied_embeddings`: the output layer's
    matrix is the embedding's, with `all` also that of an encoder's input. `rope_theta`: base of the
    rotary positions' angles.
    """

    size: ClassVar[str] = "1.29 M parameters, 21.6 M MAC at 1x16x16"  # of the defaults

    dim: Annotated[int, Range(1)] = 128
    depth: Annotated[int, Range(1)] = 6
    num_heads: Annotated[int, Range(1)] = 4
    hidden_multiple: Annotated[float, Range(0)] = 4.0
    image_stride: Annotated[int, Range(1)] = 4
    stem: Annotated[str, OneOf("convolutional", "patch")] = "convolutional"
    pool: Annotated[str, OneOf("mean", "class")] = "mean"
    positions: Annotated[str, OneOf(*KINDS)] = "learned"
    norm: Annotated[str, OneOf("layer", "rms")] = "layer"
    norm_first: bool = True
    norm_eps: Annotated[float, Range(gt=0)] = 1e-5
    activation: Annotated[str, OneOf(*ACTIVATIONS, GATED)] = "gelu"
    num_kv_heads: Annotated[int | None, Range(1)] = None
    bias: bool = True
    tied_embeddings: Annotated[str, OneOf("no", "output", "all")] = "no"
    rope_theta: Annotated[float, Range(gt=0)] = 10_000.0

    def __post_init__(self) -> None:
        """Raises ValueError for settings that make no network."""
        check_fields(self)
        # Conditions on several fields; ranges of single fields are in their annotations.
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim} is not divisible by num_heads={self.num_heads}")
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(
                f"num_heads={self.num_heads} is not divisible by num_kv_heads={self.num_kv_heads}"
            )
        if self.positions == "rotary" and self.dim // self.num_heads % 2:
            width = self.dim // self.num_heads
            raise ValueError(f"positions=rotary needs an even width per head, not {width}")
        if self.stem == "convolutional" and self.image_stride not in STRIDES:
            raise ValueError(f"image_stride={self.image_stride}: one of {list(STRIDES)}")

    @property
    def hidden(self) -> int:
        """The feed-forward layers' hidden width H."""
        return round(self.dim * self.hidden_multiple)

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: MakeFeed | None = None,
        attention: MakeAttention | None = None,
        block: MakeBlock | None = None,
    ) -> Trunk:
        """The trunk for `spec`; raises Unsupported for what has no stem or cannot share embeddings.

        `ffn(dim, hidden)`, `attention(dim, num_heads, causal=...)` and `block(index, make)`, where
        `make()` builds the dense block, replace the dense parts. An encoder-decoder counts the
        encoder's blocks first; the trunk's `blocks` are the decoder's.
        """
        parts = TransformerParts(self, spec, ffn, attention, block)
        stem = parts.make_stem()  # first: it numbers the encoder's blocks
        # Both predict every position from earlier ones; other tasks have one label per sample.
        causal = spec.causal or spec.kind == "seq2seq"
        blocks = parts.make_blocks(self.depth, causal=causal, cross=spec.kind == "seq2seq")
        parts.initialise(blocks)
        class_token = self._has_class_token(spec)
        # A factory, not a module: exit heads are made from it as well.
        make_head = partial(
            Head,
            self.dim,
            spec.num_outputs,
            pool=not causal,
            class_token=class_token,
            norm=self.make_norm() if self.norm_first else _no_norm,  # post-norm ends in a norm
            bias=self.bias,
            tied=parts.tied_embedding(stem),
        )
        return Trunk(spec, self.dim, stem, blocks, make_head, class_token=class_token)

    def make_norm(self) -> MakeNorm:
        """A factory, D -> norm, of the kind, epsilon and bias that are set."""
        if self.norm == "rms":  # has no bias
            return partial(nn.RMSNorm, eps=self.norm_eps)
        return partial(nn.LayerNorm, eps=self.norm_eps, bias=self.bias)

    def num_tokens(self, spec: TaskSpec) -> int:
        """Tokens of the longest sample of `spec`; of a pair, the decoder's."""
        if spec.kind in ("image", "audio"):
            height, width = spec.input_shape[-2:]
            tokens = math.ceil(height / self.image_stride) * math.ceil(width / self.image_stride)
            return tokens + self._has_class_token(spec)
        if spec.kind == "seq2seq" and spec.target_length is not None:
            return spec.target_length
        return spec.input_shape[0]

    def block_flops(self, spec: TaskSpec) -> int:
        """FLOPs (2 x MAC) of one dense block for one sample; of a pair, one of each kind.

        A token's projections take 4 D^2 + 4 D K with K the width of keys and values (8 D^2 where
        K = D), its attention 4 T D, its feed-forward layer 4 D H (6 D H with a gate).
        """
        # By formula, not by counting: `shrunk_dense` calls it for many candidate sizes.
        dim, num_tokens = self.dim, self.num_tokens(spec)
        kv_dim = dim // self.num_heads * (self.num_kv_heads or self.num_heads)
        feed = (6 if self.activation == GATED else 4) * dim * self.hidden
        token = 4 * dim**2 + 4 * dim * kv_dim + feed
        total = num_tokens * (token + 4 * num_tokens * dim)
        if spec.kind == "seq2seq":
            source = spec.input_shape[0]
            total += source * (token + 4 * source * dim)  # the encoder's block
            # Cross-attention: queries and output of targets, keys and values of sources.
            total += num_tokens * (4 * dim**2 + 4 * source * dim) + source * 4 * dim * kv_dim
        return total

    def _has_class_token(self, spec: TaskSpec) -> bool:
        return self.pool == "class" and spec.kind in ("image", "audio")


def _no_norm(dim: int) -> nn.Module:
    return nn.Identity()
