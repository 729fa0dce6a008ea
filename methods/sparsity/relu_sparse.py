"""Feed-forward layers with ReLU, whose zeros are skipped exactly.

Mirzadeh et al. 2023, "ReLU Strikes Back": another activation is replaced by ReLU and the model is
fine-tuned. Song et al. 2024, "ProSparse": a penalty on the activations, whose factor rises along a
sine, makes more of them 0, and a positive threshold (FATReLU) takes away the small ones that are
left. A neuron that is 0 adds nothing, so its row of the second matrix is not read; in a layer with
a gate, ReLU is the gate's, and a row of the other two matrices is not. Kernels are in
`methods.parts.sparse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor, nn

from bench.types import Backbone, Batch, Criterion, Point, Range, TaskSpec, Unsupported
from methods.parts.sparse.thresholds import collect, quantile, replace_feeds, use_point

# Shares of the activations above 0 that are taken for 0 as well; the default: none of them.
RANGE = [0.0, 0.1, 0.25, 0.5, 0.75]


@dataclass
class ReluSparse:
    """The trained model with ReLU in its feed-forward layers, fine-tuned with a penalty.

    `l1`: factor of the mean activation at the end of training, summed over layers. An operating
    point is the share `dropped` of the positive activations that a threshold found on held-out data
    takes away; without it the result is exact.
    """

    compaction = "nothing: every token reads the rows of its own neurons"

    l1: Annotated[float, Range(ge=0)] = 0.1
    train_share: Annotated[float, Range(0)] = 0.3

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The same from an untrained backbone."""
        return self._convert(backbone.build(spec))

    def convert(self, dense: Any, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained model with ReLU. Raises Unsupported for other layers."""
        return self._convert(deepcopy(dense))

    def _convert(self, model: nn.Module) -> nn.Module:
        if not replace_feeds(model, len(RANGE), activate=F.relu, l1=self.l1):
            raise Unsupported("relu_sparse needs feed-forward layers with one activation")
        return model

    def loss(self, model: Any, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """The task's loss and the penalty, whose factor rises with `progress`."""
        output = model(batch)
        return criterion(output, batch) + ramp(progress) * output.aux_loss

    def calibrate(self, model: Any, batches: Iterable[Batch]) -> None:
        """Find the thresholds that drop each share of the positive activations."""
        for gate, magnitudes in collect(model, batches).items():
            positive = magnitudes[magnitudes > 0]
            for i, dropped in enumerate(RANGE):
                gate.thresholds[i] = quantile(positive, dropped) if len(positive) else 0.0
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """One operating point per share, the exact one first."""
        return [{"dropped": dropped} for dropped in RANGE]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Use a share's thresholds. Raises ValueError for one that is none of the points."""
        use_point(model, RANGE.index(float(point["dropped"])))


def ramp(progress: float) -> float:
    """1/2 (sin(pi t - pi/2) + 1) at t = `progress`: 0 at first, 1 at the end (ProSparse, 3.2)."""
    return (1 - cos(pi * progress)) / 2
