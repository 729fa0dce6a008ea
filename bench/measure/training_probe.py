"""Two early training steps under the meters: what a step keeps in memory, and what it computes.

Where several processes train together, FLOPs are summed over them, so that a step is that of the
whole batch; memory is one device's, with the buckets in which its gradients are sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bench import ranks
from bench.meters.flops.counter import count
from bench.meters.memory.tensors import TrainingMemory, measure_training_memory
from bench.records.record import Metric, missing

PARTS = ("peak_tensor", "params", "buffers", "grads", "optimizer", "activation")
Step = Callable[[], Any]


class TrainingProbe:
    """Hands out `memory` and `flops`, each to be called with one training step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._memory: TrainingMemory | None = None
        self._flops: int | None = None
        self._unknown: set[str] = set()

    def memory(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """Run `step` once and keep its peak memory and the parts that sum to it."""
        found = measure_training_memory(self.model, optimizer, step)
        buckets = _bucket_bytes(self.model)
        self._memory = replace(
            found,
            peak_tensor_bytes=found.peak_tensor_bytes + buckets,
            grads_bytes=found.grads_bytes + buckets,
        )

    def flops(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """Run `step` once and keep its executed FLOPs, forward and backward."""
        found = count(step)
        counts = ranks.everyones((found.total, set(found.ops_without_formula)))
        self._flops = sum(total for total, _ in counts)
        self._unknown = set().union(*(names for _, names in counts))

    def metrics(self, untrained: str) -> dict[str, Metric]:
        """The train/... metrics; missing for the reason `untrained` where no step was probed."""
        return {**self._memory_metrics(untrained), **self._flop_metrics(untrained)}

    def _memory_metrics(self, untrained: str) -> dict[str, Metric]:
        names = {part: f"train/{part}_bytes" for part in PARTS}
        if self._memory is None:
            return {name: missing("bytes", untrained) for name in names.values()}
        doubt = self._memory.window.reason
        values = {name: getattr(self._memory, f"{part}_bytes") for part, name in names.items()}
        return {
            name: Metric(value=value, unit="bytes", valid=doubt is None, reason=doubt)
            for name, value in values.items()
        }

    def _flop_metrics(self, untrained: str) -> dict[str, Metric]:
        if self._flops is None:
            return {"train/flops_per_step": missing("flop", untrained)}
        unknown = ", ".join(sorted(self._unknown))
        doubt = f"operations without a FLOP formula: {unknown}" if unknown else None
        return {
            "train/flops_per_step": Metric(
                value=self._flops, unit="flop", valid=doubt is None, reason=doubt
            )
        }


def _bucket_bytes(model: nn.Module) -> int:
    """What distributed training keeps beside the gradients to send them: as much again."""
    if ranks.count() == 1:
        return 0
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
