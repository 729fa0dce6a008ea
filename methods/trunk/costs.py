"""What the layers of a trunk cost: FLOPs from weights, or from the shapes that pass through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def linear_flops(module: nn.Module) -> int:
    """FLOPs (2 x MAC) that the linear layers inside `module` spend on one token."""
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


@contextmanager
def layer_flops(model: nn.Module) -> Iterator[list[int]]:
    """FLOPs (2 x MAC) of every call of a convolution or linear layer of `model`, as it happens.

    Only shapes are looked at, so that this also works on the meta device.
    """
    found: list[int] = []

    def add(layer: Any, inputs: Any, output: Tensor) -> None:
        found.append(2 * output.numel() * layer.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
