"""The compute budget: a penalty on what gates allocate, with a fixed or an adapted weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def compute_share(allocations: Iterable[tuple[Tensor, float]]) -> Tensor:
    """The compute that gates allocate as a share of all they could, a scalar in 0..1.

    `allocations`: (a, cost) per gate: probabilities or values of any shape, and the FLOPs that one
    element of this gate costs. The field's sum_i a_i, weighted by FLOPs and normalised, so that a
    penalty's weight depends on neither depth nor length. 0 where there is no element.
    """
    pairs = list(allocations)  # read twice: an iterator would be empty the second time
    spent = torch.stack([a.sum() * cost for a, cost in pairs]).sum()
    # Without an element (a batch of padding only) there is nothing to spend either.
    return spent / (sum(a.numel() * cost for a, cost in pairs) or 1.0)


class Budget(nn.Module):
    """The penalty on allocated compute: `weight` x share, with a fixed or an adapted weight.

    Without a `target`, `weight` stays as given: the field's L + lambda sum_i a_i. With one, it is
    the multiplier of the constraint share <= target, found by dual ascent on an exponential mean:
    weight <- max(0, weight + rate (mean share - target)). Weight and mean are buffers, so training
    continues from a checkpoint with the weight that it had. Raises ValueError for a target outside
    (0, 1].
    """

    weight: Tensor
    mean: Tensor

    def __init__(
        self,
        weight: float = 0.0,
        target: float | None = None,
        *,
        rate: float = 0.02,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if target is not None and not 0 < target <= 1:
            raise ValueError(f"a budget's target is a share in (0, 1], not {target}")
        self.target, self.rate, self.momentum = target, rate, momentum
        self.register_buffer("weight", torch.tensor(float(weight)))
        # Begins at the target: the first steps, whose share is that of untrained gates, move the
        # weight by little.
        self.register_buffer("mean", torch.tensor(1.0 if target is None else target))

    def forward(self, share: Tensor) -> Tensor:
        """The penalty for a `share` in 0..1 (a scalar with gradient); in training adapts weight."""
        # A copy: autograd keeps the factor for backward, and the update below is in place.
        penalty = self.weight.clone() * share
        if self.training and self.target is not None:
            with torch.no_grad():
                # One batch's share is noisy; without the mean the weight would follow the noise.
                self.mean.mul_(self.momentum).add_(share.detach(), alpha=1 - self.momentum)
                # A negative weight would reward compute beyond the target.
                self.weight.add_(self.rate * (self.mean - self.target)).clamp_(min=0)
        return penalty
