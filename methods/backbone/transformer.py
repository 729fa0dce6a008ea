"""The transformer: encoder where a sample gets a label, causal decoder for language models.

Pre-LN blocks (Xiong et al. 2020) with a GELU feed-forward layer, as in ViT (Dosovitskiy et al.
2021) and GPT-2 (Radford et al. 2019). A block has two halves: `mix` (tokens look at one another)
and `feed` (each token by itself).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import TaskSpec, Unsupported
from methods.backbone.attention import Attention
from methods.backbone.stem import ImageStem, TokenStem
from methods.backbone.trunk import State, Trunk


class FeedForward(nn.Module):
    """W2 gelu(W1 x): [B, T, D] -> [B, T, D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.hidden = dim, hidden
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def initialise(self, residual_scale: float) -> None:
        """GPT-2's start: N(0, 0.02), what is added to the residual stream scaled down, no bias."""
        nn.init.normal_(self.up.weight, std=0.02)
        nn.init.normal_(self.down.weight, std=0.02 * residual_scale)
        nn.init.zeros_(self.up.bias)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, dim: int, attention: nn.Module, ffn: nn.Module, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm_mix = nn.LayerNorm(dim)
        self.attention = attention
        self.norm_feed = nn.LayerNorm(dim)
        self.ffn = ffn

    def forward(self, state: State) -> State:
        return self.feed(self.mix(state))

    def mix(self, state: State, context: State | None = None, mask: Tensor | None = None) -> State:
        """The attention half. With `context`, the tokens of `state` look at those of `context`.

        `mask` is used instead of the one that follows from the states.
        """
        x = self.norm_mix(state.x)
        if mask is None:
            mask = attention_mask(state, context, causal=self.causal)
        if context is None:
            mixed = self.attention(x, mask)
        else:
            mixed = self.attention(x, mask, self.norm_mix(context.x))
        return replace(state, x=state.x + mixed)

    def feed(self, state: State) -> State:
        """The feed-forward half; adds the layer's auxiliary loss to the state's, if it has one."""
        fed = self.ffn(self.norm_feed(state.x))
        if not isinstance(fed, tuple):
            return replace(state, x=state.x + fed)
        fed, aux_loss = fed
        return replace(state, x=state.x + fed, aux_loss=state.aux_loss + aux_loss)


def attention_mask(state: State, context: State | None, *, causal: bool) -> Tensor | None:
    """Who may look at whom, bool [B, 1, T, S]; None where the attention's own rule is enough.

    Tokens of a state are in order of position, so a plain causal rule also holds for a subset.
    """
    keys = state if context is None else context
    if keys.mask is None and (context is None or not causal):
        return None
    allowed = None if keys.mask is None else keys.mask[:, None, None, :]
    if not causal:
        return allowed
    order = state.token_positions()[:, None, :, None] >= keys.token_positions()[:, None, None, :]
    return order if allowed is None else order & allowed


class Head(nn.Module):
    """Logits of every position [B, T, C], or with `pool` of the mean token [B, C]."""

    def __init__(self, dim: int, num_outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, num_outputs)

    def forward(self, state: State) -> Tensor:
        x = mean_token(state) if self.pool else state.x
        return self.linear(self.norm(x))


def mean_token(state: State) -> Tensor:
    """The mean of a sample's real tokens, each weighted by its size, [B, D]."""
    if state.mask is None and state.sizes is None:
        return state.x.mean(1)
    weight = state.x.new_ones(state.x.shape[:2]) if state.sizes is None else state.sizes
    if state.mask is not None:
        weight = weight * state.mask
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)
    return (state.x * weight[..., None]).sum(1) / total


@dataclass
class Transformer:
    """Encoder for images, spectrograms and labelled text; causal decoder for language modelling.

    The defaults are the quickstart's size. `hidden_multiple` is H / D, `image_stride` how many
    pixels (or mel bands and frames) share a token along each axis.
    """

    dim: int = 128
    depth: int = 6
    num_heads: int = 4
    hidden_multiple: float = 4.0
    image_stride: int = 4

    def build(
        self,
        spec: TaskSpec,
        *,
        ffn: Callable[[int, int], nn.Module] | None = None,
        attention: Callable[..., nn.Module] | None = None,
        block: Callable[..., nn.Module] | None = None,
    ) -> Trunk:
        """The trunk for `spec`; raises Unsupported for kinds without a stem.

        `ffn(dim, hidden)`, `attention(dim, num_heads, causal=...)` and `block(index, make)`, where
        `make()` builds the dense block, replace the dense parts.
        """
        stem = self._stem(spec)
        make_ffn, make_attention = ffn or FeedForward, attention or Attention
        hidden = round(self.dim * self.hidden_multiple)

        def make_block() -> nn.Module:
            mixer = make_attention(self.dim, self.num_heads, causal=spec.causal)
            return Block(self.dim, mixer, make_ffn(self.dim, hidden), causal=spec.causal)

        blocks = [block(i, make_block) if block else make_block() for i in range(self.depth)]
        for module in nn.ModuleList(blocks).modules():
            start = getattr(module, "initialise", None)  # what stands in may have one too
            if callable(start):
                start((2 * self.depth) ** -0.5)
        make_head = partial(Head, self.dim, spec.num_outputs, pool=not spec.causal)
        return Trunk(spec, self.dim, stem, blocks, make_head)

    def num_tokens(self, spec: TaskSpec) -> int:
        """Tokens that a sample of `spec` becomes (the longest, for sequences)."""
        if spec.kind in ("image", "audio"):
            height, width = spec.input_shape[-2:]
            return math.ceil(height / self.image_stride) * math.ceil(width / self.image_stride)
        return spec.input_shape[0]

    def block_flops(self, spec: TaskSpec) -> int:
        """FLOPs (2 x MAC) of one dense block for one sample.

        A token's projections take 8 D^2, its attention 4 T D, its feed-forward layer 4 D H.
        """
        num_tokens, hidden = self.num_tokens(spec), round(self.dim * self.hidden_multiple)
        return num_tokens * (8 * self.dim**2 + 4 * num_tokens * self.dim + 4 * self.dim * hidden)

    def _stem(self, spec: TaskSpec) -> nn.Module:
        if spec.kind in ("image", "audio"):
            shape = spec.input_shape if spec.kind == "image" else (1, *spec.input_shape)
            return ImageStem(shape, self.dim, self.image_stride)
        if spec.kind == "tokens" and spec.vocab_size is not None:
            return TokenStem(spec.vocab_size, spec.input_shape[0], self.dim)
        raise Unsupported(f"the transformer backbone has no stem for {spec.kind} tasks")
