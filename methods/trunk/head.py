"""From a state to logits: of every position, of the mean token or of the class token."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from methods.trunk.state import State


class Head(nn.Module):
    """Logits of every position [B, T, C], or with `pool` of one token per sample [B, C].

    That token is the mean, or with `class_token` the first. `norm` makes the final norm. With
    `tied`, the output matrix is that embedding's (Press and Wolf 2017) and there is no bias.
    """

    def __init__(
        self,
        dim: int,
        num_outputs: int,
        *,
        pool: bool,
        class_token: bool = False,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        bias: bool = True,
        tied: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.class_token = pool, class_token
        self.norm = norm(dim)
        self.linear = nn.Linear(dim, num_outputs, bias=bias and tied is None)
        if tied is not None:
            # The same Parameter: one gradient, counted and stored once.
            self.linear.weight = tied.weight

    def forward(self, state: State) -> Tensor:
        if self.class_token:
            return self.linear(self.norm(state.x[:, 0]))
        # Pooled first: the norm then works on one token instead of T.
        x = mean_token(state) if self.pool else state.x
        return self.linear(self.norm(x))


def mean_token(state: State) -> Tensor:
    """The mean of a sample's real tokens, each weighted by its size, [B, D]."""
    if state.mask is None and state.sizes is None:
        return state.x.mean(1)
    # A merged token stands for several: weighted by size, the mean is that of the original tokens.
    weight = state.x.new_ones(state.x.shape[:2]) if state.sizes is None else state.sizes  # [B, T]
    if state.mask is not None:
        weight = weight * state.mask
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)  # a sample of padding only gives 0, not NaN
    return (state.x * weight[..., None]).sum(1) / total


def pooled(state: State) -> Tensor:
    """What a gate reads of a sample: the mean over places of maps, or over real tokens, [B, D]."""
    return state.x.mean((2, 3)) if state.x.dim() == 4 else mean_token(state)
