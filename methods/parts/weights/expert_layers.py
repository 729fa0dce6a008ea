"""The layers of a mixture of experts: a router and a stack of feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Backbone, TaskSpec
from methods.parts import dispatch
from methods.parts.dispatch import Order


def expert_width(hidden: int, ratio: float) -> int:
    """`ratio` of the dense hidden width, as a multiple of 8 (16 bytes in bf16), at least 8."""
    return max(8, 8 * round(hidden * ratio / 8))


def build_encoder(
    spec: TaskSpec, backbone: Backbone, make: Callable[[int, int], nn.Module]
) -> nn.Module:
    """The backbone with `make(dim, hidden)` for the feed-forward layers that get a whole sample.

    Those are all layers of an encoder. The decoder of an encoder-decoder stays dense, because there
    a layer that compares tokens would depend on later ones.
    """
    if spec.kind != "seq2seq":
        trunk: nn.Module = backbone.build(spec, ffn=make)
        return trunk

    def block(index: int, dense: Callable[[], Any]) -> nn.Module:
        made = dense()
        if not made.causal:  # a block of the encoder
            made.ffn = make(made.ffn.dim, made.ffn.hidden)
        return cast(nn.Module, made)

    pair: nn.Module = backbone.build(spec, block=block)
    return pair


class Router(nn.Linear):
    """Expert scores of a token, in fp32 whatever the rest computes in (Switch, section 2.4)."""

    def __init__(self, dim: int, num_experts: int) -> None:
        super().__init__(dim, num_experts, bias=False)  # a bias would prefer experts for all tokens

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., E] in fp32 (fp64 stays fp64).

        In memory the result is [E, ...]: a CPU computes W x^T faster than x W^T, and
        `gates.softmax` then runs along contiguous rows.
        """
        # In bf16 close scores tie, and a tie decides which expert runs.
        dtype = torch.promote_types(x.dtype, torch.float32)
        kind = x.device.type
        if torch.is_autocast_enabled(kind):  # else not entered: that takes as long as a product
            with torch.autocast(kind, enabled=False):
                return self._score(x, dtype)
        return self._score(x, dtype)

    def _score(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        scores = self.weight.to(dtype) @ x.reshape(-1, x.shape[-1]).to(dtype).t()  # [E, N]
        return scores.t().view(*x.shape[:-1], -1)  # [..., E], a view


class Experts(nn.Module):
    """E feed-forward layers without biases, their weights stacked: the `Groups` of `dispatch.mix`.

    gelu: gelu(x W_up) W_down. swiglu: (silu(x W_gate) * x W_up) W_down (Shazeer 2020); `up` then
    holds W_gate beside W_up. Weights are [E, inputs, outputs]: with few rows a CPU's GEMM is
    some per cent faster than with nn.Linear's layout. Raises ValueError for another activation.
    """

    def __init__(self, num_experts: int, dim: int, hidden: int, activation: str) -> None:
        super().__init__()
        if activation not in ("gelu", "swiglu"):
            raise ValueError(f"activation is gelu or swiglu, not {activation!r}")
        self.hidden, self.gated = hidden, activation == "swiglu"
        columns = 2 * hidden if self.gated else hidden
        self.up = nn.Parameter(torch.empty(num_experts, dim, columns))  # [E, D, H or 2 H]
        self.down = nn.Parameter(torch.empty(num_experts, hidden, dim))  # [E, H, D]
        self.initialise()

    def initialise(self, residual_scale: float = 1.0) -> None:
        """GPT-2's initialisation, as of the dense layer: deviation 0.02, `down` scaled."""
        nn.init.normal_(self.up, std=0.02)
        nn.init.normal_(self.down, std=0.02 * residual_scale)

    @property
    def flops_per_row(self) -> float:
        """FLOPs (2 x MAC) of one token in one expert."""
        up, down = self.up.shape, self.down.shape
        return 2.0 * (up[1] * up[2] + down[1] * down[2])

    def each(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The experts, each [n, D] -> [n, D]."""
        # unbind once: indexing one expert at a time would build a gradient as large as the stack.
        weights = zip(self.up.unbind(0), self.down.unbind(0), strict=True)
        return [partial(self._expert, up, down) for up, down in weights]

    def can_sort(self, rows: Tensor) -> bool:
        """Whether one grouped GEMM serves rows of this dtype and width."""
        return dispatch.can_group(rows, self.up, self.down)

    def run_sorted(self, rows: Tensor, order: Order) -> Tensor:
        """Each expert on its part of `rows` [P, D] -> [P, D]."""
        hidden = self._activate(dispatch.grouped_linear(rows, self.up, order.ends))
        return dispatch.grouped_linear(hidden, self.down, order.ends)

    def run_batched(self, rows: Tensor) -> Tensor:
        """Each expert on as many rows as every other: [E, n, D] -> [E, n, D]."""
        return self._activate(rows @ self.up) @ self.down  # two batched products

    def _activate(self, hidden: Tensor) -> Tensor:
        if not self.gated:
            return F.gelu(hidden)
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate) * up

    def _expert(self, up: Tensor, down: Tensor, rows: Tensor) -> Tensor:
        if not self.gated:
            return F.gelu(rows @ up) @ down
        hidden = F.silu(rows @ up[:, : self.hidden]) * (rows @ up[:, self.hidden :])
        return hidden @ down
