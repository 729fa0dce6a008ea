"""Training steps under the meters: what a step keeps in memory, and what it computes.

Memory is that of one early step. FLOPs are the mean over the steps that are counted: what a step
computes may change with the progress of the training.

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
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Metrics
from bench.meters.flops.counter import count
from bench.meters.memory.tensors import TrainingMemory, measure_training_memory
from bench.records.catalogue import TRAIN_FLOPS, TRAIN_PART_BYTES, TRAIN_PEAK_BYTES
from bench.records.record import Metric

PARTS = ("params", "buffers", "grads", "optimizer", "activation")  # they sum to the peak
Step = Callable[[], Any]


class TrainingProbe:
    """Provides `memory` and `flops`, each to be called with one training step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._memory: TrainingMemory | None = None
        self._flops: list[int] = []  # of each step that was counted
        self._unknown: set[str] = set()  # operations without a formula

    def memory(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """Run `step` once and keep its peak memory and the parts that sum to it."""
        found = measure_training_memory(self.model, optimizer, step)
        # DDP allocates its buckets in earlier steps, before the window of this meter opens.
        buckets = _bucket_bytes(self.model)
        self._memory = replace(
            found,
            peak_tensor_bytes=found.peak_tensor_bytes + buckets,
            grads_bytes=found.grads_bytes + buckets,
        )

    def flops(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        """Run `step` once and add its executed FLOPs, forward and backward, to the counts."""
        found = count(step)
        # Every process counts its share of the batch at the same step; all must take part.
        counts = ranks.all_gather((found.total, set(found.ops_without_formula)))
        self._flops.append(sum(total for total, _ in counts))
        self._unknown.update(*(names for _, names in counts))

    def metrics(self, untrained: str) -> Metrics:
        """The train/... metrics; missing for the reason `untrained` where no step was probed."""
        return {**self._memory_metrics(untrained), TRAIN_FLOPS.at(): self._flop_metric(untrained)}

    def _memory_metrics(self, untrained: str) -> Metrics:
        entries = {"peak_tensor": (TRAIN_PEAK_BYTES.at(), TRAIN_PEAK_BYTES)}
        entries |= {part: (TRAIN_PART_BYTES.at(part), TRAIN_PART_BYTES) for part in PARTS}
        if self._memory is None:
            return {key: missing_metric(entry, untrained) for key, entry in entries.values()}
        doubt = self._memory.window.reason  # of the window: the parts are no surer than the peak
        return {
            key: metric(entry, getattr(self._memory, f"{part}_bytes"), doubt)
            for part, (key, entry) in entries.items()
        }

    def _flop_metric(self, untrained: str) -> Metric:
        if not self._flops:
            return missing_metric(TRAIN_FLOPS, untrained)
        unknown = ", ".join(sorted(self._unknown))
        doubt = f"operations without a FLOP formula: {unknown}" if unknown else None
        return metric(TRAIN_FLOPS, sum(self._flops) / len(self._flops), doubt)


def _bucket_bytes(model: nn.Module) -> int:
    """What distributed training keeps beside the gradients to send them: as much again."""
    if ranks.group_size() == 1:
        return 0
    # Frozen parameters have no gradient and no place in a bucket.
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
