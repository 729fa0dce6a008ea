"""Compute allocation: a = f(x; theta) for every token and block, or for every sample and block.

Before block l a small network reads a token's own state and allocates

    a_i = sigmoid(W2 relu(W1 x_i) + b)

of the block to it. The block runs where a_i > 1/2. The loss is L + lambda sum_i a_i, in the
normalised form lambda sum_i c_i a_i / sum_i c_i with c_i the FLOPs of an element, so that lambda
depends on neither depth nor length; `price=sum` is the literal one. lambda is fixed, or found by
dual ascent for a budget of the share (Bengio et al. 2016, "Conditional Computation in Neural
Networks for faster models", price the expected activity of Bernoulli gates in the same way).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast, get_args

from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Criterion, OneOf, Output, Point, Range, TaskSpec
from methods.parts.allocation.elements import Elements, Samples, Tokens
from methods.parts.allocation.gated_trunk import TRAINED, AllocationModel, Price
from methods.parts.gates import Estimator, self_critical_loss
from methods.trunk.trunk import Trunk

__all__ = ["Allocation", "AllocationModel"]

# Of a, at inference. Gates are trained around 1/2, which is the default.
THRESHOLDS = (TRAINED, 0.01, 0.05, 0.1, 0.2, 0.35, 0.65, 0.8, 0.9, 0.95)


@dataclass
class Allocation:
    """Gated blocks of a trained dense model, fine-tuned; training computes all and masks.

    `per`: token, or sample where one label belongs to a sample. `hidden`: rows of W1. `estimator`:
    how a learns, one of `methods.parts.gates.Estimator`; soft trains another model than inference
    runs. `budget`: the share of compute that dual ascent aims at; null for a fixed lambda,
    `cost_weight`, which otherwise is the initial one. `price`: share is the normalised form, sum
    the literal sum over a sample's elements.
    """

    compaction = "before every block the tokens (or samples) that run it are gathered"

    per: Annotated[str, OneOf("token", "sample")] = "token"
    hidden: Annotated[int, Range(1)] = 16
    estimator: Annotated[str, OneOf(*get_args(Estimator))] = "gumbel"
    budget: Annotated[float | None, Range(gt=0, le=1)] = 0.5
    cost_weight: Annotated[float, Range(0)] = 0.0
    price: Annotated[str, OneOf("share", "sum")] = "share"
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # every element runs every block

    def __post_init__(self) -> None:
        """Raises ValueError for a literal sum with a budget, which is a share."""
        if self.price == "sum" and self.budget is not None:
            raise ValueError(
                f"price=sum has a fixed cost_weight, and budget={self.budget} is a share:"
                " set budget=null, or price=share"
            )

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The untrained backbone with gates."""
        return self._wrap(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained trunk with gates."""
        return self._wrap(deepcopy(dense))

    def _wrap(self, trunk: Trunk) -> AllocationModel:
        """Raises Unsupported where elements of this kind get no compute of their own."""
        elements: Elements = Tokens(trunk) if self.per == "token" else Samples(trunk)
        price = Price(self.cost_weight, self.budget, self.price == "share")
        return AllocationModel(elements, trunk, self.hidden, cast(Estimator, self.estimator), price)

    def points(self) -> list[Point]:
        """Thresholds of a at inference, the trained one first."""
        return [{"threshold": threshold} for threshold in THRESHOLDS]

    def set_point(self, model: AllocationModel, point: Point) -> None:
        """Run a block where a exceeds `point["threshold"]` from now on."""
        model.threshold.fill_(float(point["threshold"]))

    def loss(self, model: Any, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """Criterion and price of compute; reinforce compares sampled with greedy decisions."""
        output = model(batch)
        loss = criterion(output, batch) + output.aux_loss
        if self.estimator != "reinforce":
            return loss

        def decide_greedily() -> Output:
            with routing.observe():  # without which a pass of inference keeps no decisions
                return cast(Output, model(batch))

        decided = output.stats["logits"], output.stats["run"]
        reward = partial(model.reward, batch=batch, criterion=criterion)
        return loss + self_critical_loss(model, output, decide_greedily, reward, *decided)
