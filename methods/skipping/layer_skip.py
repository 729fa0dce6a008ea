"""Self-speculative decoding: the first blocks draft tokens, all blocks verify them.

Elhoushi et al. 2024, "LayerSkip: Enabling Early Exit Inference and Self-Speculative Decoding". A
trained language model is fine-tuned so that its head can read early blocks: later blocks are left
out more often (layer dropout), and the head's loss after inner blocks joins the last one's. At
inference the first blocks and the head draft several tokens, one pass of the other blocks reads
them all, and what the full model would have written is kept: its greedy tokens, exactly. The model
is in `methods.parts.exits.speculation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from bench.types import Backbone, Batch, Criterion, Output, Point, Range, TaskSpec, Unsupported
from methods.parts.exits.speculation import SpeculativeModel, dropout_rates, exit_weights
from methods.trunk.trunk import Trunk

# (share of the blocks that draft, drafts per verification), the default first.
RANGE = [(0.34, 4), (0.34, 2), (0.34, 8), (0.5, 4), (0.5, 2), (0.67, 4)]


@dataclass
class LayerSkip:
    """The trained language model, fine-tuned to draft with its first blocks.

    `dropout`: probability of leaving out the last block for a sample, in training. `exit_scale`:
    weight of the losses after inner blocks; a step computes every `rotation`-th of them, and the
    next step the next ones. An operating point has the share of the blocks that draft (`exit`) and
    the number of drafts that a verification reads (`drafts`); all of them write the same tokens,
    and answer `workload=forward` with the full model.

    A batch continues from what all of its samples accept: the larger it is, the fewer drafts count.
    """

    compaction = "the batch continues from the drafts that all of its samples accept"

    dropout: Annotated[float, Range(0, lt=1)] = 0.1
    exit_scale: Annotated[float, Range(0)] = 1.0
    rotation: Annotated[int, Range(1)] = 2
    train_share: Annotated[float, Range(0)] = 0.5

    def build(self, spec: TaskSpec, backbone: Backbone) -> SpeculativeModel:
        """The same from an untrained backbone."""
        return self._wrap(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> SpeculativeModel:
        """A copy of the trained trunk that can draft."""
        return self._wrap(deepcopy(dense))

    def _wrap(self, trunk: Trunk) -> SpeculativeModel:
        if not trunk.spec.causal:
            raise Unsupported("layer_skip needs a language model: only generated text is drafted")
        depth = len(trunk.blocks)
        if depth < 2:
            raise Unsupported("layer_skip needs two blocks or more: one to draft, one to verify")
        model = SpeculativeModel(trunk, dropout_rates(depth, self.dropout))
        self.set_point(model, self.points()[0])
        return model

    def loss(
        self, model: SpeculativeModel, batch: Batch, criterion: Criterion, progress: float
    ) -> Tensor:
        """The weighted mean of the losses after the blocks of this step and after the last one."""
        inner = range(1, len(model.trunk.blocks) - 1)  # e(0) = 0
        turn = model.num_steps % self.rotation
        model.taught = frozenset(number for number in inner if number % self.rotation == turn)
        model.num_steps += 1
        output = model(batch)
        depth = len(model.trunk.blocks)
        weights = exit_weights(depth, self.exit_scale, model.taught)
        found = {**output.stats["exits"], depth - 1: output.logits}
        losses = [weights[number] * criterion(Output(found[number]), batch) for number in weights]
        return torch.stack(losses).sum() + output.aux_loss

    def points(self) -> list[Point]:
        """One operating point per entry of RANGE."""
        return [{"exit": share, "drafts": drafts} for share, drafts in RANGE]

    def set_point(self, model: Any, point: Point) -> None:
        """Draft with a share of the blocks, rounded, at least one and never all."""
        depth = len(model.trunk.blocks)
        model.num_draft_blocks = min(depth - 1, max(1, round(float(point["exit"]) * depth)))
        model.num_drafts = int(point["drafts"])
