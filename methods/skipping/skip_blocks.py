"""Dynamic skipping: for every sample, a gate before each residual block decides whether it runs.

Veit and Belongie 2018 (ConvNet-AIG): a small network reads the mean of a block's input; Wang et al.
2018 (SkipNet): gates trained by REINFORCE; Wu et al. 2018 (BlockDrop): its self-critical baseline,
the reward of the greedy decisions. A block that changes the state's shape always runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_args

import torch
from torch import Tensor, nn

from bench.routing import SAMPLES, decide, region
from bench.types import Backbone, Batch, Criterion, OneOf, Output, Point, Range, TaskSpec
from methods.parts import dispatch
from methods.parts.blocks.gated_blocks import run_masked, run_on, skippable
from methods.parts.budget import Budget, compute_share
from methods.parts.gates import Estimator, Gate, binary, self_critical_loss
from methods.trunk.head import pooled
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

# Of a gate's probability, at inference. Gates are trained around 1/2, which is the default.
THRESHOLDS = (0.5, 0.01, 0.05, 0.1, 0.2, 0.35, 0.65, 0.8, 0.9, 0.95)
OPEN = 2.0  # a gate's logit at initialisation: open with probability 0.88, as the dense model


@dataclass
class SkipBlocks:
    """Gated blocks of a trained dense model, fine-tuned; training computes all and masks.

    `estimator`: how gates learn, one of `methods.parts.gates.Estimator`. soft trains another model
    than inference runs: a control. `budget`: the share of the gated blocks' FLOPs that dual ascent
    aims at; null for a fixed price `cost_weight`, which otherwise is the initial one.
    """

    compaction = "before every block the samples that run it are gathered"

    estimator: Annotated[str, OneOf(*get_args(Estimator))] = "gumbel"
    budget: Annotated[float | None, Range(gt=0, le=1)] = 0.5
    cost_weight: Annotated[float, Range(0)] = 0.0
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # every block runs

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The untrained backbone with gates."""
        return self.convert(backbone.build(spec), [])

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained trunk with gates."""
        return SkipModel(deepcopy(dense), self)

    def points(self) -> list[Point]:
        """Thresholds of the gates' probability at inference, the trained one first."""
        return [{"threshold": threshold} for threshold in THRESHOLDS]

    def set_point(self, model: SkipModel, point: Point) -> None:
        """Run a block where its gate's probability exceeds `point["threshold"]` from now on."""
        model.threshold.fill_(float(point["threshold"]))

    def loss(self, model: Any, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """Criterion and price of compute; reinforce compares sampled with greedy decisions."""
        output = model(batch)
        loss = criterion(output, batch) + output.aux_loss
        if self.estimator != "reinforce":
            return loss
        decided = output.stats["logits"], output.stats["run"]
        reward = partial(model.reward, batch=batch, criterion=criterion)
        return loss + self_critical_loss(model, output, partial(model, batch), reward, *decided)


class SkipModel(nn.Module):
    """`trunk` with a gate before every block that keeps the state's shape.

    Raises Unsupported where a sample's gate would read later tokens, or nothing can be skipped.
    """

    threshold: Tensor

    def __init__(self, trunk: Trunk, settings: SkipBlocks) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(THRESHOLDS[0]))
        self.trunk, self.estimator = trunk, settings.estimator
        widths, self.costs = skippable(trunk)
        # Named by block: ModuleDict keys are strings.
        self.gates = nn.ModuleDict({str(i): make_gate(widths[i]) for i in self.costs})
        self.budget = Budget(settings.cost_weight, settings.budget)

    def forward(self, batch: Batch) -> Output:
        """`stats` holds the gates' logits and what ran, both [B, gates]."""
        state, gates = self.trunk.stem(batch), list[Gate]()
        logits: list[Tensor] = []
        for i, block in enumerate(self.trunk.blocks):
            if i not in self.costs:
                state = block(state)
                continue
            with region("router"):
                # fp32: noise and log probabilities are too coarse in bf16.
                logit = self.gates[str(i)](pooled(state))[:, 0].float()  # [B]
                logits.append(logit if self.training else logit - self.threshold.logit())
                gates.append(self._decide(i, logits[-1]))
            state = state.with_x(self._run_gated(block, state, gates[-1]))
        run = torch.stack([each.run for each in gates], 1)
        stats = {"logits": torch.stack(logits, 1), "run": run}
        return Output(self.trunk.head(state), self._price(gates) if self.training else 0.0, stats)

    def reward(self, output: Output, batch: Batch, criterion: Criterion) -> Tensor:
        """-(loss + price of what ran) of each sample, [B]."""
        run = output.stats["run"]
        costs = run.new_tensor(list(self.costs.values()), dtype=torch.float32)
        price = self.budget.weight * (run * costs).sum(1) / costs.sum()
        # A criterion is a mean over its batch: sample by sample it gives each one's loss.
        rows = torch.arange(len(batch), device=run.device)[:, None]
        losses = [criterion(Output(output.logits[row]), batch.select(row)) for row in rows]
        return -(torch.stack(losses) + price)

    def _decide(self, block: int, logits: Tensor) -> Gate:
        """The gate of one block; `logits` [B]."""

        def obey(probability: Tensor, run: Tensor) -> Tensor:
            cost = self.costs[block]
            return decide(
                f"block{block}", axes=SAMPLES, probabilities=probability, run=run, cost=cost
            )

        return binary(logits, self.estimator, training=self.training, decide=obey)  # type: ignore[arg-type]

    def _run_gated(self, block: nn.Module, state: State, gate: Gate) -> Tensor:
        """The block's result for the samples that run it, its input for the others."""
        if not self.training:
            return dispatch.where_kept(run_on(block, state), state.x, gate.run)
        return run_masked(block, state, gate.value)

    def _price(self, gates: list[Gate]) -> Tensor:
        """The penalty on the compute that gates allocate."""
        # Samples have no gradient: with reinforce this only adapts the budget's weight, which
        # enters the reward.
        sampled = self.estimator == "reinforce"
        spent = [each.run.float() if sampled else each.probability for each in gates]
        return self.budget(compute_share(zip(spent, self.costs.values(), strict=True)))


def make_gate(width: int) -> nn.Module:
    """A sample's mean [B, width] -> a logit [B, 1]."""
    # 16 hidden units, as in ConvNet-AIG: a gate must cost next to nothing beside its block.
    last = nn.Linear(16, 1)
    nn.init.constant_(last.bias, OPEN)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), last)
