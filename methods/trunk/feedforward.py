"""Feed-forward layers: two matrices with an activation between them, or three with a gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's
    "relu": F.relu,
}
GATED = "swiglu"  # not among ACTIVATIONS: it has a third matrix


class FeedForward(nn.Module):
    """W2 gelu(W1 x): [B, T, D] -> [B, T, D], or with another of `ACTIVATIONS`."""

    def __init__(
        self, dim: int, hidden: int, *, activation: str = "gelu", bias: bool = True
    ) -> None:
        super().__init__()
        # Methods that replace or cut this layer read its sizes and its activation.
        self.dim, self.hidden, self.activation = dim, hidden, activation
        self.activate = ACTIVATIONS[activation]
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def initialise(self, residual_scale: float) -> None:
        """GPT-2's initialisation, deviation 0.02; the output's times `residual_scale`. No bias."""
        initialise_linear(self.up)
        initialise_linear(self.down, residual_scale)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        return self.down(self.activate(self.up(x)))


class GatedFeedForward(nn.Module):
    """W2 (silu(Wg x) * W1 x), SwiGLU (Shazeer 2020): [B, T, D] -> [B, T, D]."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.dim, self.hidden = dim, hidden
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def initialise(self, residual_scale: float) -> None:
        """As `FeedForward.initialise`."""
        initialise_linear(self.gate)
        initialise_linear(self.up)
        initialise_linear(self.down, residual_scale)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        return self.down(F.silu(self.gate(x)) * self.up(x))


def initialise_linear(layer: nn.Linear, scale: float = 1.0) -> None:
    """GPT-2's initialisation of a linear layer: deviation 0.02 x `scale`, zero bias."""
    nn.init.normal_(layer.weight, std=0.02 * scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
