"""Learning rates of a model that was made from a trained dense one.

What training has found already needs smaller steps than gates and routers that are new: in a tenth
of the steps at the full rate a network does not come back to the quality that it started from.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.plugins.hooks import Hooks


def with_fine_tuning(hooks: Hooks, dense: nn.Module, model: nn.Module, share: float) -> Hooks:
    """`hooks` with which weights that `model` took over from `dense` learn at `share` of the rate.

    A weight counts as taken over where it equals one of `dense`: one that a method cut or permuted
    is new. A method that defines `param_groups` decides by itself.
    """
    if hooks.param_groups is not None or share == 1:
        return hooks
    of_dense = {_digest(weight) for weight in dense.parameters()}
    taken_over = {name for name, p in model.named_parameters() if _digest(p) in of_dense}

    def groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
        learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
        old = [p for name, p in learnt.items() if name in taken_over]
        new = [p for name, p in learnt.items() if name not in taken_over]
        found = [{"params": old, "lr": lr * share}, {"params": new, "lr": lr}]
        return [group for group in found if group["params"]]

    return replace(hooks, param_groups=groups)


def _digest(weight: Tensor) -> tuple[tuple[int, ...], str]:
    """Shape and a hash of the values."""
    values = weight.detach().cpu().contiguous().flatten().view(torch.uint8)  # any format
    return tuple(weight.shape), hashlib.sha256(values.numpy().tobytes()).hexdigest()
