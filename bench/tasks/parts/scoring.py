"""Losses and scores that several tasks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.types import Batch, Model, Output, Quality

IGNORED = -100  # a position without a target; the default of torch's cross entropy


def cross_entropy(output: Output, batch: Batch) -> Tensor:
    """Mean cross entropy in nats over all targets that are not -100.

    Logits [B, C] with targets [B], or logits [B, T, C] with targets [B, T].
    """
    num_classes = output.logits.shape[-1]
    logits = output.logits.reshape(-1, num_classes)
    return F.cross_entropy(logits, batch.targets.reshape(-1), ignore_index=IGNORED)


@torch.no_grad()
def accuracy(
    model: Model,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    references: Mapping[str, float],
) -> Quality:
    """Share of samples whose largest logit is the target, in percent; 100 or 0 per sample.

    Raises ValueError for no batches.
    """
    right = [model(batch).logits.argmax(-1) == batch.targets for batch in batches]
    if not right:
        raise ValueError("nothing to evaluate: no batches")
    scores = 100.0 * torch.cat(right).cpu().double()
    return Quality(
        value=float(scores.mean()),
        unit="accuracy %",
        direction="higher",
        per_sample=scores.tolist(),
        chance=100.0 / num_classes,
        references=references,
    )


def majority(train_targets: Tensor, test_targets: Tensor) -> float:
    """Accuracy in percent of always predicting the most frequent training class."""
    return 100.0 * float((test_targets == train_targets.mode().values).double().mean())


def nearest_neighbour(train: Batch, test: Batch, *, num_at_once: int = 256) -> float:
    """Accuracy in percent of predicting the class of the nearest training input (Euclidean).

    `num_at_once` test samples share one matrix product, which bounds its memory.
    """
    known = train.inputs.flatten(1).float()  # [N, F]
    half_norms = 0.5 * known.square().sum(1)
    right = 0
    for inputs, targets in zip(
        test.inputs.flatten(1).float().split(num_at_once),
        test.targets.split(num_at_once),
        strict=True,
    ):
        closest = (half_norms - inputs @ known.T).argmin(1)  # |a - b|^2 / 2 without |a|^2 / 2
        right += int((train.targets[closest] == targets).sum())
    return 100.0 * right / len(test)
