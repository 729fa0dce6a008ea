"""Expert choice: every expert picks its tokens, so load is perfectly even and no loss balances it.

Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing". A token may get several experts
or none. What an expert picks depends on all tokens of the batch, also on later ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Annotated

from torch import Tensor, nn

from bench.routing import TOKEN_CHOICES, decide, region
from bench.types import Backbone, OneOf, Point, Range, TaskSpec, Unsupported
from methods.parts import dispatch
from methods.parts.gates import softmax, top_k
from methods.parts.weights.expert_layers import Experts, Router, build_encoder, expert_width

FACTORS = {0.5, 1.0, 1.5, 2.0, 3.0, 4.0}  # operating points


@dataclass
class ExpertChoice:
    """Experts that take ceil(capacity_factor x tokens / num_experts) tokens of the batch each.

    With the defaults the layer spends half of the dense layer's FLOPs (capacity_factor x
    hidden_ratio), distributed over the tokens by the experts' scores.
    """

    compaction = "every expert runs the same number of tokens of the batch, gathered"

    num_experts: Annotated[int, Range(1)] = 8
    capacity_factor: Annotated[float, Range(gt=0)] = 2.0
    hidden_ratio: Annotated[float, Range(gt=0)] = 0.25
    activation: Annotated[str, OneOf("gelu", "swiglu")] = "gelu"
    backend: Annotated[str, OneOf(*dispatch.BACKENDS)] = "auto"
    batch_invariant = False  # an expert compares all tokens of the batch

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone with such a layer in place of every feed-forward layer of its encoder.

        A decoder stays dense. Raises Unsupported where there is nothing else: a token would be
        chosen by comparing it with later ones.
        """
        if spec.causal:
            raise Unsupported("expert choice compares a token with later ones: not causal")
        layer = count()

        def make(dim: int, hidden: int) -> nn.Module:
            width = expert_width(hidden, self.hidden_ratio)
            return ExpertChoiceFFN(dim, width, self, name=f"expert_choice.{next(layer)}")

        return build_encoder(spec, backbone, make)

    def points(self) -> list[Point]:
        """Mean number of experts per token at inference, the trained one first."""
        others = sorted(FACTORS - {self.capacity_factor})
        return [{"capacity_factor": factor} for factor in (self.capacity_factor, *others)]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Let the experts take `point["capacity_factor"]` times an even share from now on."""
        for module in model.modules():
            if isinstance(module, ExpertChoiceFFN):
                module.capacity_factor = float(point["capacity_factor"])


class ExpertChoiceFFN(nn.Module):
    """sum over the experts that picked a token of probability_e f_e(x). Skips in training too."""

    takes_mask = True  # padding must not compete with tokens

    def __init__(
        self, dim: int, hidden: int, settings: ExpertChoice, *, name: str = "expert_choice"
    ) -> None:
        super().__init__()
        self.name, self.backend = name, settings.backend
        self.capacity_factor = settings.capacity_factor
        self.router = Router(dim, settings.num_experts)
        self.experts = Experts(settings.num_experts, dim, hidden, settings.activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]; padding (`mask` [B, T] false) is never picked."""
        with region("router"):
            probability = softmax(self.router(x))  # [B, T, E]
            run = decide(
                self.name,
                axes=TOKEN_CHOICES,
                probabilities=probability,
                run=self._pick(probability.detach(), mask),
                cost=self.experts.flops_per_row,
            )
        rows, weights = x.flatten(0, 1), probability.flatten(0, 1)
        return dispatch.mix(rows, run.flatten(0, 1), weights, self.experts, self.backend).view_as(x)

    def _pick(self, probability: Tensor, mask: Tensor | None) -> Tensor:
        """Each expert's best tokens, bool like `probability` [B, T, E]."""
        rows = probability.flatten(0, 1)  # [N, E]
        num_real = len(rows) if mask is None else int(mask.sum())
        if mask is not None:
            rows = rows.masked_fill(~mask.flatten()[:, None], -1.0)  # below every probability
        limit = dispatch.capacity(num_real, rows.shape[1], 1, self.capacity_factor)
        best = top_k(rows.t(), min(limit, num_real)).t()  # [N, E]
        return best.view_as(probability)
