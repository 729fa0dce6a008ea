"""The parts of one transformer: stem, encoder and blocks, dense or replaced by a method.

parts = TransformerParts(shape, spec, ffn, attention, block)
stem, blocks = parts.make_stem(), parts.make_blocks(depth, causal=False)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import nn

from bench.types import TaskSpec, Unsupported
from methods.trunk.attention import Attention
from methods.trunk.block import Block
from methods.trunk.feedforward import GATED, FeedForward, GatedFeedForward
from methods.trunk.positions import Rotary
from methods.trunk.stem import ImageStem, PairStem, PatchStem, TokenStem

MakeFeed = Callable[[int, int], nn.Module]
MakeAttention = Callable[..., nn.Module]
MakeBlock = Callable[..., nn.Module]


class Shape(Protocol):
    """The sizes and choices of a transformer, as `methods.backbone.transformer` documents them."""

    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int | None
    image_stride: int
    stem: str
    pool: str
    positions: str
    norm_first: bool
    activation: str
    bias: bool
    tied_embeddings: str
    rope_theta: float

    @property
    def hidden(self) -> int:
        """Hidden width H of the feed-forward layers."""
        ...

    def make_norm(self) -> Callable[[int], nn.Module]:
        """A factory: width -> norm."""
        ...

    def num_tokens(self, spec: TaskSpec) -> int:
        """Tokens of one sample of a task."""
        ...


@dataclass
class TransformerParts:
    """Makes the parts of one trunk, each dense or by the method's factory for it."""

    shape: Shape
    spec: TaskSpec
    ffn: MakeFeed | None
    attention: MakeAttention | None
    block: MakeBlock | None

    def __post_init__(self) -> None:
        shape, self.num_blocks = self.shape, 0  # made so far, the encoder's included
        if self.attention is None:
            self.attention = partial(
                Attention,
                num_kv_heads=shape.num_kv_heads,
                bias=shape.bias,
                rotary=self._rotary(),
            )
        if self.ffn is None and shape.activation == GATED:
            self.ffn = partial(GatedFeedForward, bias=shape.bias)
        elif self.ffn is None:
            self.ffn = partial(FeedForward, activation=shape.activation, bias=shape.bias)

    def _rotary(self) -> Rotary | None:
        """One table for all layers, as long as the longest sequence."""
        shape = self.shape
        if shape.positions != "rotary":
            return None
        # num_tokens is the decoder's in a pair; the encoder's sequence may be longer.
        length = max(shape.num_tokens(self.spec), self.spec.input_shape[0])
        return Rotary(length, shape.dim // shape.num_heads, shape.rope_theta)

    def make_blocks(self, depth: int, *, causal: bool, cross: bool = False) -> list[nn.Module]:
        """The next `depth` blocks, numbered on from the last ones."""

        def dense() -> nn.Module:
            return self._make_dense_block(causal=causal, cross=cross)

        first = self.num_blocks
        self.num_blocks += depth
        numbers = range(first, self.num_blocks)
        return [self.block(i, dense) if self.block else dense() for i in numbers]

    def _make_dense_block(self, *, causal: bool, cross: bool) -> nn.Module:
        shape = self.shape
        assert self.attention is not None
        assert self.ffn is not None
        mixer = self.attention(shape.dim, shape.num_heads, causal=causal)
        cross_attention = None
        if cross:  # always dense, never rotary: between two sequences there is no distance
            cross_attention = Attention(
                shape.dim, shape.num_heads, num_kv_heads=shape.num_kv_heads, bias=shape.bias
            )
        return Block(
            shape.dim,
            mixer,
            self.ffn(shape.dim, shape.hidden),
            causal=causal,
            norm=shape.make_norm(),
            norm_first=shape.norm_first,
            cross=cross_attention,
        )

    def initialise(self, blocks: list[nn.Module]) -> None:
        """Initialise every part that defines `initialise(residual_scale)`, replacements included.

        Each of the 2 `depth` halves adds to the residual stream: scaled by (2 depth)^-1/2, the
        variance of their sum does not grow with the depth (GPT-2, Radford et al. 2019).
        """
        for module in nn.ModuleList(blocks).modules():
            initialise = getattr(module, "initialise", None)
            if callable(initialise):
                initialise((2 * self.shape.depth) ** -0.5)

    def make_stem(self) -> nn.Module:
        """The stem of the task's kind. Raises Unsupported for a kind without one."""
        shape, spec = self.shape, self.spec
        if spec.kind in ("image", "audio"):
            # A spectrogram is an image with one channel.
            size = spec.input_shape if spec.kind == "image" else (1, *spec.input_shape)
            make = PatchStem if shape.stem == "patch" else ImageStem
            return make(
                size,
                shape.dim,
                shape.image_stride,
                positions=shape.positions,
                class_token=shape.pool == "class",
            )
        if spec.vocab_size is None:
            raise Unsupported(
                f"the transformer backbone has no stem for {spec.kind} tasks without a vocabulary"
            )
        source = self._make_token_stem(spec.vocab_size, spec.input_shape[0])
        return source if spec.kind == "tokens" else self._make_pair_stem(source)

    def _make_token_stem(self, vocab_size: int, length: int) -> TokenStem:
        shape = self.shape
        # Sinusoids have amplitude 1: embeddings of deviation 0.02 would drown in them.
        scale = shape.dim**0.5 if shape.positions == "sinusoidal" else 1.0
        return TokenStem(vocab_size, length, shape.dim, positions=shape.positions, scale=scale)

    def _make_pair_stem(self, source: TokenStem) -> PairStem:
        """The encoder and the decoder's embedding."""
        shape, spec = self.shape, self.spec
        if spec.target_length is None:
            raise Unsupported(
                "a seq2seq task needs target_length, the length of its longest target sequence"
            )
        target = self._make_token_stem(spec.num_outputs, spec.target_length)
        if shape.tied_embeddings == "all":
            if spec.vocab_size != spec.num_outputs:
                raise Unsupported("tied_embeddings=all needs one vocabulary for both sequences")
            source.embedding = target.embedding  # one matrix for input, output and logits
        encoder = self.make_blocks(
            shape.depth, causal=False
        )  # before the decoder's: numbered first
        self.initialise(encoder)
        norm = shape.make_norm()(shape.dim) if shape.norm_first else nn.Identity()
        return PairStem(source, encoder, norm, target, spec.decoder_padding)

    def tied_embedding(self, stem: nn.Module) -> nn.Embedding | None:
        """The embedding that the output layer shares; None where it has a matrix of its own.

        Raises Unsupported where inputs and outputs have different vocabularies.
        """
        if self.shape.tied_embeddings == "no":
            return None
        # A decoder's embedding in a pair: that of what is predicted.
        embedding = stem.target.embedding if isinstance(stem, PairStem) else None
        embedding = stem.embedding if isinstance(stem, TokenStem) else embedding
        if embedding is None or embedding.num_embeddings != self.spec.num_outputs:
            raise Unsupported("tied_embeddings needs a model that predicts its own input symbols")
        return embedding
