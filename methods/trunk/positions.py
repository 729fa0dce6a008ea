"""Positions of tokens: learned tables, sinusoids, or a rotation of queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("learned", "sinusoidal", "rotary")


def add_table(stem: Any, kind: str, length: int, dim: int, deviation: float) -> None:
    """Set the `positions` [length, D] that `stem` adds to its tokens; None for rotary.

    Learned ones are initialised with standard deviation `deviation`.
    """
    if kind == "learned":
        stem.positions = nn.Parameter(torch.randn(length, dim) * deviation)
    elif kind == "sinusoidal":
        # Not persistent: computed from the sizes, so that a checkpoint fits any length.
        stem.register_buffer("positions", sinusoids(length, dim), persistent=False)
    else:
        stem.positions = None  # attention turns queries and keys instead


def sinusoids(length: int, dim: int) -> Tensor:
    """sin and cos of p / 10000^(2 i / D) in turn (Vaswani et al. 2017, 3.5), [length, D]."""
    angles = _angles(length, dim, 10_000.0)  # [length, D / 2]
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): pairs of channels turn by an angle that grows with p.

    Channel i is paired with i + d / 2, as in Llama. One table serves all layers. Raises ValueError
    for an odd width per head.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, length: int, head_dim: int, theta: float) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even width per head, not {head_dim}")
        angles = _angles(length, head_dim, theta)  # [length, d / 2]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Turn `x` [B, heads, T, d] by its `positions` [B, T] (None: 0..T-1)."""
        if positions is None:
            cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]  # [T, d / 2]
        else:
            cos, sin = (table[positions][:, None] for table in (self.cos, self.sin))
        # Angles are computed in fp32, because bf16 rounds late positions together; the products
        # then keep the dtype of x.
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        first, second = x.chunk(2, -1)  # halves, not even and odd channels: contiguous views
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def _angles(length: int, dim: int, base: float) -> Tensor:
    """p base^(-2 i / dim) for every position p and pair i, [length, dim / 2]."""
    rates = base ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return torch.arange(length, dtype=torch.float32)[:, None] * rates
