"""Adaptive resolution: how many pixels, and so tokens, an image is worth.

A cascade: the smallest image runs first, and samples whose answer is not sure run again on a larger
one, which reads the features of the pass before (Wang et al. 2021, Not All Images are Worth 16x16
Words; Yang et al. 2020, Resolution Adaptive Networks). Or a policy: a small network picks one size
for each image before anything else runs (Zhu et al. 2021, Dynamic Resolution Network). All sizes
share the weights of one trunk. The models are in `methods.parts.sizes.cascade_model` and
`methods.parts.sizes.policy_model`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bench.types import Backbone, Batch, Criterion, Output, Point, Range, TaskSpec
from methods.parts import priced_choice
from methods.parts.exits.thresholds import find_threshold
from methods.parts.sizes.cascade_model import CascadeModel
from methods.parts.sizes.policy_model import PolicyModel
from methods.trunk.trunk import Trunk

# Budgets over the whole range, the default first; above 1 where images run at several sizes.
RANGE = [0.7, 1.2, 1.0, 0.85, 0.6, 0.5, 0.4, 0.3]


@dataclass
class Resolution:
    """A trained dense model, fine-tuned to run at every one of `resolutions`.

    `resolutions`: shares of height and width, increasing to 1.0, rounded to whole patches. An
    operating point is a budget: the largest mean share of the dense model's FLOPs on the
    calibration data. With `policy` every fixed size is one as well. Without `budgets` they are
    RANGE, where those below the smallest image's share mean to stay with that; of budgets that are
    given the first is the default, and one that cannot be kept raises ValueError when the model is
    made.

    `reuse_width`: channels of the earlier pass that a later one reads in a cascade, 0 for none.
    `temperature`: of the policy's Gumbel-softmax.
    """

    compaction = "samples that need a larger image are gathered after every size"

    resolutions: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.5, 0.75, 1.0]
    )
    policy: bool = False
    budgets: list[Annotated[float, Range(gt=0)]] = field(default_factory=list)
    reuse_width: Annotated[int, Range(0)] = 48
    temperature: Annotated[float, Range(gt=0)] = 1.0
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # what a pass reads of the one before is zero until it is trained

    def __post_init__(self) -> None:
        """Raises ValueError for resolutions that offer no choice."""
        sizes = self.resolutions
        if len(sizes) < 2 or sizes != sorted(set(sizes)) or sizes[-1] != 1.0:
            raise ValueError(
                f"resolutions={sizes}: two or more, increasing to 1.0, such as [0.5, 1.0]"
            )

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The untrained backbone at every size."""
        return self._at_sizes(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained trunk at every size."""
        return self._at_sizes(deepcopy(dense))

    def _at_sizes(self, trunk: Trunk) -> nn.Module:
        budgets = self._budgets
        if self.policy:
            model: Any = PolicyModel(trunk, self.resolutions, budgets, self.temperature)
            least = min(model.choice.shares)
        else:
            model = CascadeModel(trunk, self.resolutions, self.reuse_width, len(budgets))
            least = float(model.shares()[0])
        # Checked before training: a budget below it could only fail in calibration.
        priced_choice.check_budgets(self.budgets, least)
        built: nn.Module = model
        return built

    def loss(self, model: nn.Module, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """The mean loss of all sizes; with a policy, also that of what it picked, and its price."""
        output = model(batch)
        losses = [criterion(Output(exit), batch) for exit in output.stats["exits"]]
        loss = torch.stack(losses).mean() + output.aux_loss
        return loss + criterion(output, batch) if self.policy else loss

    def calibrate(self, model: Any, batches: Iterable[Batch]) -> None:
        """Find every budget's threshold or price on held-out batches; sets the default point."""
        if self.policy:
            model.choice.calibrate(torch.cat([model.policy(batch).float() for batch in batches]))
        else:
            confidence = torch.cat([model.confidences(batch) for batch in batches], 1)
            for i, budget in enumerate(self._budgets):
                model.thresholds[i] = find_threshold(confidence, model.shares(), budget)
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """One operating point per budget, the default first; with a policy also fixed sizes."""
        if not self.policy:
            return [{"budget": budget} for budget in self._budgets]
        values = priced_choice.points(self._budgets, self.resolutions)
        return [{"resolution": value} for value in values]

    def set_point(self, model: Any, point: Point) -> None:
        """Use a point's threshold, price or size. Raises ValueError for one that is no point."""
        if self.policy:
            model.choice.use(point["resolution"], self.resolutions)
        else:
            budget = self._budgets.index(float(point["budget"]))
            model.threshold.copy_(model.thresholds[budget])

    @property
    def _budgets(self) -> list[float]:
        return self.budgets or RANGE
