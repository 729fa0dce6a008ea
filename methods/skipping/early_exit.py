"""Early exit: easy inputs leave at an early head, hard ones continue.

Heads after inner blocks, trained jointly with weights that grow with depth (BranchyNet:
Teerapittayanon et al. 2016; PABEE: Zhou et al. 2020). An element leaves at the first head whose
largest softmax probability reaches a threshold (BranchyNet and DeeBERT, Xin et al. 2020, use the
entropy).

Where one label belongs to a sample, the sample leaves and the rest of the batch is compacted. Where
every position is predicted (language modelling), single tokens leave as in CALM (Schuster et al.
2022): a token that has left queries no more, but its last state stays visible to later tokens as
key and value in the blocks above. A token's decision reads only its own state, so it never depends
on later tokens. The model is in `methods.parts.exits.model`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from bench.types import Backbone, Batch, Criterion, Output, Point, Range, TaskSpec
from methods.parts.exits.model import ExitModel
from methods.parts.exits.thresholds import find_threshold
from methods.trunk.trunk import Trunk

# Budgets from leaving at once to never leaving, closer together where exits pay; default first.
RANGE = [0.7, 1.0, 0.9, 0.8, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2]


@dataclass
class EarlyExit:
    """Exit heads after every `every` blocks; thresholds are found on held-out batches.

    An operating point is a budget: the largest mean share of blocks that an element (a sample, or a
    token in language modelling) runs on the calibration data. Without `budgets` they are RANGE,
    where those that leaving at the first exit already exceeds mean to leave there. Of budgets that
    are given the first is the default, and one that cannot be kept raises ValueError when the model
    is made.
    """

    compaction = "samples or tokens that left are removed after every exit"

    every: Annotated[int, Range(1)] = 1
    budgets: list[Annotated[float, Range(gt=0, le=1)]] = field(default_factory=list)
    train_share: Annotated[float, Range(0)] = 0.5
    open_is_dense = True  # nothing leaves: the dense model

    def build(self, spec: TaskSpec, backbone: Backbone) -> ExitModel:
        """The untrained backbone with exit heads."""
        return self._add_exits(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> ExitModel:
        """A copy of the trained trunk; exit heads of the final head's shape are copies of it."""
        model = self._add_exits(deepcopy(dense))
        trained = dense.head.state_dict()
        for head in model.heads:
            # In convolutional trunks inner maps have fewer channels: such a head begins untrained.
            if {k: v.shape for k, v in head.state_dict().items()} == {
                k: v.shape for k, v in trained.items()
            }:
                head.load_state_dict(trained)
        return model

    def _add_exits(self, trunk: Trunk) -> ExitModel:
        model = ExitModel(trunk, self.every, len(self._budgets))
        # Checked before training: a budget below it could only fail in calibration.
        least = model.ends[0] / model.ends[-1]
        if self.budgets and min(self.budgets) < least:
            raise ValueError(
                f"budget {min(self.budgets)} cannot be kept: leaving at the first exit already runs"
                f" {least:.2f} of the blocks; raise it, or lower every={self.every}"
            )
        return model

    def loss(self, model: ExitModel, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """The exits' losses averaged with weights proportional to their depth (PABEE)."""
        output = model(batch)
        logits = output.stats["exits"]
        losses = [(k + 1) * criterion(Output(exit), batch) for k, exit in enumerate(logits)]
        # Divided by the sum of the weights: the learning rate then fits any number of exits.
        return torch.stack(losses).sum() / sum(range(1, len(losses) + 1)) + output.aux_loss

    def calibrate(self, model: ExitModel, batches: Iterable[Batch]) -> None:
        """Find every budget's threshold on held-out batches; sets the default point."""
        confidence = torch.cat([model.confidences(batch) for batch in batches], 1)  # [exits, N]
        for i, budget in enumerate(self._budgets):
            model.thresholds[i] = find_threshold(confidence, model.block_shares(), budget)
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """One operating point per budget, the default first."""
        return [{"budget": budget} for budget in self._budgets]

    def set_point(self, model: ExitModel, point: Point) -> None:
        """Use a budget's threshold. Raises ValueError for a budget that is none of the points."""
        model.threshold.copy_(model.thresholds[self._budgets.index(float(point["budget"]))])

    @property
    def _budgets(self) -> list[float]:
        return self.budgets or RANGE
