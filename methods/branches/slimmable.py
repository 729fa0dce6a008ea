"""Slimmable networks: one set of weights runs at several widths, chosen once or for each sample.

Yu et al. 2019, Slimmable Neural Networks: a layer of width w uses the first channels of its
weights, [:out, :in], and every width has a batch norm of its own. Yu and Huang 2019, Universally
Slimmable Networks: the sandwich rule trains the narrowest, the widest and some between in every
step, and the narrower ones learn what the widest answers (in-place distillation). Li et al. 2021,
Dynamic Slimmable Network: a gate reads the features of the narrowest network's first blocks and
picks the width of each sample. The model is in `methods.parts.widths.slim_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Backbone, Batch, Criterion, Output, Point, Range, TaskSpec
from methods.parts import priced_choice
from methods.parts.widths.slim_model import SlimModel
from methods.trunk.trunk import Trunk

# Budgets of the gate over its whole range, the default first.
RANGE = [0.6, 0.9, 0.75, 0.5, 0.4, 0.3, 0.2]


@dataclass
class Slimmable:
    """A trained dense model, fine-tuned to run at every one of `widths`.

    `widths`: shares of the channels, increasing to 1.0, which is the dense model. With `gate`, a
    gate picks the width of each sample after the first `gate_depth` blocks of the narrowest
    network; an operating point is a budget, the mean share of the dense model's FLOPs on the
    calibration data. Fixed widths are operating points as well, and the only ones without a gate.
    Without `budgets` they are RANGE, where those below the narrowest width's share mean to take
    that; of budgets that are given the first is the default, and one that cannot be kept raises
    ValueError when the model is made.

    `num_random`: widths between the narrowest and the widest that a training step draws.
    `distill`: the narrower ones learn from the widest, else from the targets.
    """

    compaction = "samples are grouped by width"

    widths: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.25, 0.5, 0.75, 1.0]
    )
    gate: bool = True
    budgets: list[Annotated[float, Range(gt=0, le=1)]] = field(default_factory=list)
    gate_depth: Annotated[int, Range(0)] = 1
    num_random: Annotated[int, Range(0)] = 2
    distill: bool = True
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # forced open, every sample runs at width 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for widths that offer no choice."""
        if self.widths != sorted(set(self.widths)) or self.widths[-1:] != [1.0]:
            raise ValueError(
                f"widths={self.widths}: they increase to 1.0, such as [0.25, 0.5, 1.0]"
            )
        if len(self.widths) < 2:
            raise ValueError(f"widths={self.widths} offer no choice: give two or more")

    def build(self, spec: TaskSpec, backbone: Backbone) -> SlimModel:
        """The untrained backbone at every width."""
        return self._at_widths(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> SlimModel:
        """A copy of the trained trunk at every width."""
        return self._at_widths(deepcopy(dense))

    def _at_widths(self, trunk: Trunk) -> SlimModel:
        model = SlimModel(trunk, self, self.budgets or RANGE)
        if self.gate:
            priced_choice.check_budgets(self.budgets, min(model.choice.shares))
        return model

    def loss(self, model: SlimModel, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """The mean loss of the widths that ran, and the gate's where there is one."""
        output = model(batch)
        found: Mapping[int, Tensor] = output.stats["widths"]
        widest = found[len(self.widths) - 1]
        narrower = [logits for logits in found.values() if logits is not widest]
        if self.distill:
            losses = [soft_loss(logits, widest.detach(), batch) for logits in narrower]
        else:
            losses = [criterion(Output(logits), batch) for logits in narrower]
        losses.append(criterion(Output(widest), batch))
        # A mean, not a sum: the learning rate then fits any number of widths.
        loss = torch.stack(losses).mean() + output.aux_loss
        belief = output.stats.get("gate")
        return loss if belief is None else loss + gate_loss(belief, found, batch)

    def calibrate(self, model: SlimModel, batches: Iterable[Batch]) -> None:
        """Find every budget's price on held-out batches; sets the default point."""
        if model.gate is not None:
            model.choice.calibrate(torch.cat([model.beliefs(batch) for batch in batches]))
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """The gate at every budget, then every fixed width; without a gate the widest first."""
        if not self.gate:
            return [{"width": width} for width in reversed(self.widths)]
        values = priced_choice.points(self.budgets or RANGE, self.widths)
        return [{"width": value} for value in values]

    def set_point(self, model: SlimModel, point: Point) -> None:
        """Use a budget's price or a fixed width. Raises ValueError for one that is no point."""
        model.choice.use(point["width"], self.widths)


def soft_loss(logits: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the teacher's probabilities; `logits`, `teacher` [B, C] or [B, T, C]."""
    loss = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1)  # [B] or [B, T]
    counted = batch.targets != -100 if batch.targets.shape == loss.shape else loss == loss
    return (loss * counted).sum() / counted.sum().clamp_min(1)


def gate_loss(belief: Tensor, found: Mapping[int, Tensor], batch: Batch) -> Tensor:
    """Cross-entropy of the gate's logits `belief` [B, G] with the narrowest width that is right.

    DS-Net's sandwich gate sparsification, whose labels are the narrowest width for samples that it
    answers rightly and the widest for others that the widest does; here of all widths that ran.
    Where none is right the label is the narrowest: more compute would buy nothing.
    """
    numbers = sorted(found)
    right = torch.stack([found[n].argmax(-1) == batch.targets for n in numbers], 1)  # [B, widths]
    best = right.int().argmax(1)  # the first that is right; 0 where none is
    return F.cross_entropy(belief.float(), best.new_tensor(numbers)[best])
