"""Soft mixture of experts: experts work on weighted means of tokens ("slots"), not on tokens.

Puigcerver et al. 2023, "From Sparse to Soft Mixtures of Experts". Everything is differentiable and
nothing is decided: no token is skipped, and the cost is set by the number of slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.routing import region
from bench.types import Backbone, OneOf, Range, TaskSpec, Unsupported
from methods.parts.weights.expert_layers import Experts, build_encoder, expert_width


@dataclass
class SoftMoE:
    """Experts on slots in every feed-forward layer.

    A sample of T tokens spends num_experts x slots_per_expert x hidden_ratio / T of the dense
    layer's FLOPs, plus mixing tokens into slots and back: with the defaults 8 / T, half of the
    dense layer at 16 tokens.
    """

    compaction = "every expert runs its slots of every sample: the same work for each"

    num_experts: Annotated[int, Range(1)] = 8
    slots_per_expert: Annotated[int, Range(1)] = 1
    hidden_ratio: Annotated[float, Range(gt=0)] = 1.0
    activation: Annotated[str, OneOf("gelu", "swiglu")] = "gelu"

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with such a layer in place of every feed-forward layer of its encoder.

        A decoder stays dense. Raises Unsupported where there is nothing else: a slot would mix a
        token with later ones.
        """
        if spec.causal:
            raise Unsupported("a slot mixes a token with later ones: not causal")

        def make(dim: int, hidden: int) -> nn.Module:
            return SoftMoEFFN(dim, expert_width(hidden, self.hidden_ratio), self)

        return build_encoder(spec, backbone, make)


class SoftMoEFFN(nn.Module):
    """combine(experts(dispatch(x))): all experts, each on its own slots of every sample."""

    takes_mask = True  # padding must not enter a slot

    def __init__(self, dim: int, hidden: int, settings: SoftMoE) -> None:
        super().__init__()
        self.num_experts = settings.num_experts
        num_slots = settings.num_experts * settings.slots_per_expert
        self.slots = nn.Parameter(torch.randn(dim, num_slots) * dim**-0.5)  # [D, S]
        self.scale = nn.Parameter(torch.ones(()))
        self.experts = Experts(settings.num_experts, dim, hidden, settings.activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]; padding (`mask` [B, T] false) enters no slot."""
        into, back = self.weights(x, mask)
        with region("dispatch"):
            slots = into.transpose(1, 2) @ x  # [B, S, D]
            # Expert first, so that all experts run in one batched product.
            grouped = slots.unflatten(1, (self.num_experts, -1)).transpose(0, 1)  # [E, B, S / E, D]
        with region("expert"):
            done = self.experts.run_batched(grouped.flatten(1, 2)).view_as(grouped)
        with region("combine"):
            return back @ done.transpose(0, 1).flatten(1, 2)  # [B, T, S] @ [B, S, D]

    def weights(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens into slots and slots back into tokens, both [B, T, S].

        The first adds up to 1 over tokens, the second over slots. Inputs and slots are normalised,
        with a learned scale (section 2.3 of the paper).
        """
        with region("router"):
            directions = self.scale * F.normalize(self.slots, dim=0)
            logits = F.normalize(x, dim=-1) @ directions  # [B, T, S]
            # Not -inf: a softmax over a sample of padding only would be 0 / 0.
            least = torch.finfo(logits.dtype).min
            real = logits if mask is None else logits.masked_fill(~mask[..., None], least)
            return real.softmax(1), logits.softmax(2)
