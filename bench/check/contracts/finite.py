"""A contract before all others: logits, losses and weights are finite numbers.

It is tried first, because NaN differs from itself: every comparison of a broken model would find a
difference, and blame targets, later tokens or padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.check.candidate import CROWD, FEW, Candidate
from bench.check.comparison import at
from bench.check.contract import Broken
from bench.types import Batch

SIZES = (1, FEW, CROWD)


def finite(candidate: Candidate) -> None:
    """Logits, the training loss and the weights after some steps hold neither NaN nor infinity."""
    fresh = candidate.make_untrained()
    if candidate.trains:  # without training the weights are those that inference tries below
        must_be_finite(candidate, fresh.train(), candidate.tiny.batch(FEW), "before training")
    _must_have_finite_weights(candidate.model)
    for point, model in candidate.at_points():
        for size in SIZES:
            where = f"inference, batch of {size}{at(point)}"
            must_have_finite_logits(model.eval(), candidate.tiny.batch(size), where)


def must_be_finite(candidate: Candidate, model: nn.Module, batch: Batch, where: str) -> None:
    """Raises Broken unless a training step's logits, loss and gradients are finite.

    Leaves the model's gradients empty.
    """
    must_have_finite_logits(model, batch, where)
    loss = candidate.loss(model, batch)
    # Before the gradients: those of an infinite loss are NaN, and say less.
    if is_odd(loss.detach()):
        raise Broken(f"{where}: the loss is {loss.item():.3g}")
    if loss.requires_grad:  # a method may freeze everything and train nothing
        model.zero_grad()
        loss.backward()
    wrong = [name for name, p in model.named_parameters() if p.grad is not None and is_odd(p.grad)]
    model.zero_grad()
    if wrong:
        raise Broken(f"{where}: the gradient of {wrong[0]} is not finite")


def must_have_finite_logits(model: Any, batch: Batch, where: str) -> None:
    """Raises Broken, with the share of samples, unless all logits are finite."""
    with torch.no_grad():
        logits = model(batch).logits
    odd = (~logits.isfinite()).flatten(1).any(1)  # [B]
    if bool(odd.any()):
        raise Broken(f"{where}: logits of {int(odd.sum())} of {len(odd)} samples are not finite")


def is_odd(tensor: torch.Tensor) -> bool:
    """Whether it holds NaN or infinity. Sparse gradients are judged by their values."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return not bool(values.isfinite().all())


def _must_have_finite_weights(model: nn.Module) -> None:
    wrong = [name for name, p in model.named_parameters() if is_odd(p.detach())]
    if wrong:
        raise Broken(f"after a few training steps {wrong[0]} holds NaN or infinity")
