"""Token-choice mixture of experts: a router sends each token to its k best feed-forward layers.

Sparsely gated experts (Shazeer et al. 2017); dropless by default (Gale et al. 2022, MegaBlocks), or
with a fixed capacity and dropped tokens (Lepikhin et al. 2020, GShard; Fedus et al. 2021, Switch).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.routing import TOKEN_CHOICES, decide, region
from bench.types import Backbone, OneOf, Point, Range, TaskSpec, check_fields
from methods.parts import dispatch
from methods.parts.gates import balance_loss, softmax, top_k
from methods.parts.ranges import counts_up_to
from methods.parts.weights.expert_layers import Experts, Router, expert_width


@dataclass
class MoE:
    """Mixture of experts in every feed-forward layer.

    With the defaults a token spends half of the dense layer's FLOPs (top_k x hidden_ratio = 2 x
    1/4) plus the router's, out of twice its parameters. Variants: Switch is `top_k=1,
    normalize=False, capacity_factor=1.25, jitter=0.01`; GShard and Mixtral renormalise the chosen
    probabilities, which equals a softmax over the chosen logits.

    `hidden_ratio`: an expert's hidden width / the dense layer's. `capacity_factor`: null for
    dropless; otherwise an expert takes ceil(factor x tokens x top_k / experts) tokens of the batch
    in the order of `dispatch.within_capacity`, and what is dropped passes by the residual only, so
    that results depend on the batch. Weights are then normalised before dropping, and the balance
    loss counts first choices only (GShard). `eval_capacity_factor`: that at inference (Switch:
    2.0), null for the same.

    `balance_weight` (Switch: 0.01) and `z_weight` (ST-MoE, Zoph et al. 2022: 0.001) scale the
    auxiliary losses; `jitter` multiplies the router's input with U(1 - jitter, 1 + jitter) in
    training. `backend` as in `methods.parts.dispatch`. Padding enters no loss and takes no place of
    an expert.
    """

    compaction = "tokens are sorted by expert, each expert runs its own"

    num_experts: Annotated[int, Range(1)] = 8
    top_k: Annotated[int, Range(1)] = 2
    hidden_ratio: Annotated[float, Range(gt=0)] = 0.25
    activation: Annotated[str, OneOf("gelu", "swiglu")] = "gelu"  # swiglu: half again as many FLOPs
    normalize: bool = True
    capacity_factor: Annotated[float | None, Range(gt=0)] = None
    eval_capacity_factor: Annotated[float | None, Range(gt=0)] = None
    balance_weight: Annotated[float, Range(0)] = 0.01
    z_weight: Annotated[float, Range(0)] = 0.001
    jitter: Annotated[float, Range(0, lt=1)] = 0.0
    backend: Annotated[str, OneOf(*dispatch.BACKENDS)] = "auto"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work together."""
        check_fields(self)
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k}: there are {self.num_experts} experts")
        if self.top_k == 1 and self.normalize:
            raise ValueError(
                "top_k=1 needs normalize=False: a weight normalised to 1 has no gradient"
            )
        if self.capacity_factor is None and self.eval_capacity_factor is not None:
            raise ValueError("eval_capacity_factor needs a capacity_factor to train with")

    @property
    def batch_invariant(self) -> bool:
        """Dropless routing decides about each token alone; capacity counts the batch's tokens."""
        return self.capacity_factor is None

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with a mixture in place of every feed-forward layer."""
        layer = count()  # gates are named by the order in which layers are built
        trunk: nn.Module = backbone.build(
            spec,
            ffn=lambda dim, hidden: MoEFFN(
                dim, expert_width(hidden, self.hidden_ratio), self, name=f"moe.{next(layer)}"
            ),
        )
        # Of an encoder-decoder only the decoder's blocks are causal.
        for block in trunk.modules():
            if isinstance(ffn := getattr(block, "ffn", None), MoEFFN):
                ffn.causal = getattr(block, "causal", spec.causal or spec.kind == "seq2seq")
        return trunk

    def points(self) -> list[Point]:
        """Experts per token at inference, the trained number first; none dearer than dense."""
        largest = min(self.num_experts, int(1 / self.hidden_ratio))
        return [{"top_k": k} for k in counts_up_to(largest, self.top_k)]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Route every token to `point["top_k"]` experts from now on."""
        for module in model.modules():
            if isinstance(module, MoEFFN):
                module.top_k = int(point["top_k"])


class MoEFFN(nn.Module):
    """sum over the chosen experts of weight_e f_e(x); in training also the auxiliary loss.

    Skips in training as at inference. `causal`: no token may lose its expert to a later one.
    """

    takes_mask = True  # padding must neither take places nor be balanced
    causal = False  # set by `MoE.build`, which sees the blocks

    def __init__(self, dim: int, hidden: int, settings: MoE, *, name: str = "moe") -> None:
        super().__init__()
        self.name, self.settings, self.top_k = name, settings, settings.top_k
        self.router = Router(dim, settings.num_experts)
        self.experts = Experts(settings.num_experts, dim, hidden, settings.activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[B, T, D] -> [B, T, D], with the weighted auxiliary loss in training.

        `mask` [B, T] is false in the padding. Dropless, padding runs as it does in a dense layer.
        """
        with region("router"):
            logits = self.router(self._add_jitter(x))  # [B, T, E]
            probability = softmax(logits)
            best = top_k(probability, self.top_k)  # the router's choice, before capacity
            run = decide(
                self.name,
                axes=TOKEN_CHOICES,
                probabilities=probability,
                run=best if self._factor is None else self._apply_capacity(probability, mask),
                cost=self.experts.flops_per_row,
            )
            weights = self._weights(probability, run, best)
        y = dispatch.mix(
            x.flatten(0, 1),
            run.flatten(0, 1),
            weights.flatten(0, 1),
            self.experts,
            self.settings.backend,
        ).view_as(x)
        if not self.training:
            return y
        real = slice(None) if mask is None else mask  # [B, T, E] -> [N, E] with a mask
        return y, self._aux_loss(logits[real], probability[real], best[real])

    @property
    def _factor(self) -> float | None:
        """The capacity factor in use."""
        settings = self.settings
        if self.training or settings.eval_capacity_factor is None:
            return settings.capacity_factor
        return settings.eval_capacity_factor

    def _add_jitter(self, x: Tensor) -> Tensor:
        if not self.training or self.settings.jitter == 0.0:
            return x
        # On the router's input alone: experts get x itself (Fedus et al. 2021).
        noise = torch.empty_like(x).uniform_(1 - self.settings.jitter, 1 + self.settings.jitter)
        return x * noise

    def _apply_capacity(self, probability: Tensor, mask: Tensor | None) -> Tensor:
        """The choices that find a place, bool like `probability` [B, T, E]."""
        assert self._factor is not None
        choices = probability.detach().topk(self.top_k, dim=-1).indices  # [B, T, K]
        num_tokens, num_experts = choices[..., 0].numel(), probability.shape[-1]
        # A causal model must not count real tokens: later ones would change earlier places.
        if mask is not None and not self.causal:
            num_tokens = int(mask.sum())
        limit = dispatch.capacity(num_tokens, num_experts, self.top_k, self._factor)
        return dispatch.within_capacity(choices, num_experts, limit, mask=mask, causal=self.causal)

    def _weights(self, probability: Tensor, run: Tensor, best: Tensor) -> Tensor:
        """The weight of each expert's result, [B, T, E]; 0 where it does not run."""
        chosen = probability * run
        if not self.settings.normalize:
            return chosen
        whole = chosen
        if self._factor is not None:
            # Normalised before dropping: a token that lost an expert keeps the other's weight.
            # Where the decision was overridden, the experts that run are all there are.
            overridden = (run & ~best).any(-1, keepdim=True)
            whole = probability * torch.where(overridden, run, best)
        return chosen / whole.sum(-1, keepdim=True).clamp_min(1e-9)  # no expert: 0, not NaN

    def _aux_loss(self, logits: Tensor, probability: Tensor, best: Tensor) -> Tensor:
        """Balance counts the router's choices, before capacity drops any."""
        # After dropping, a full expert would look balanced however many tokens chose it.
        counted = best if self._factor is None else top_k(probability, 1)
        balance = self.settings.balance_weight * balance_loss(probability, counted)
        return balance + self.settings.z_weight * z_loss(logits)


def z_loss(logits: Tensor) -> Tensor:
    """mean (logsumexp of a token's logits)^2 (Zoph et al. 2022, ST-MoE, equation 5), a scalar.

    0 over no token: a batch may hold nothing but padding.
    """
    squares = logits.logsumexp(-1).square()
    return squares.mean() if squares.numel() else squares.sum()
