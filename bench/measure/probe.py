"""Two early training steps under the meters: what a step keeps in memory, and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.meters.flops import FlopCount, count
from bench.meters.memory import TrainingMemory, training_memory
from bench.record import Metric, missing

PARTS = ("peak_tensor", "params", "buffers", "grads", "optimizer", "activation")
Step = Callable[[], Any]


class TrainingProbe:
    """Hands out `memory` and `flops`, each to be called with one training step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._memory: TrainingMemory | None = None
        self._flops: FlopCount | None = None

    def memory(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """Run `step` once and keep its peak memory and the parts that sum to it."""
        self._memory = training_memory(self.model, optimizer, step)

    def flops(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """Run `step` once and keep its executed FLOPs, forward and backward."""
        self._flops = count(step)

    def metrics(self, untrained: str) -> dict[str, Metric]:
        """The train/... metrics; missing for the reason `untrained` where no step was probed."""
        return {**self._memory_metrics(untrained), **self._flop_metrics(untrained)}

    def _memory_metrics(self, untrained: str) -> dict[str, Metric]:
        names = {part: f"train/{part}_bytes" for part in PARTS}
        if self._memory is None:
            return {name: missing("bytes", untrained) for name in names.values()}
        return {
            name: Metric(value=getattr(self._memory, f"{part}_bytes"), unit="bytes")
            for part, name in names.items()
        }

    def _flop_metrics(self, untrained: str) -> dict[str, Metric]:
        if self._flops is None:
            return {"train/flops_per_step": missing("flop", untrained)}
        unknown = ", ".join(sorted(self._flops.unknown_ops))
        doubt = f"operations without a FLOP formula: {unknown}" if unknown else None
        return {
            "train/flops_per_step": Metric(
                value=self._flops.total, unit="flop", valid=doubt is None, reason=doubt
            )
        }
