"""Which parameters a result depends on, and which ones a gate reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench import routing

Gradients = dict[str, Tensor]


class Reading(TorchFunctionMode):
    """Records, while a gate's region is open, which tensors functions read and what they give."""

    def __init__(self) -> None:
        super().__init__()
        # By id: a parameter lives as long as its model, and tensors cannot be compared by value.
        self.read: set[int] = set()
        self.given: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if routing.current_region() in routing.GATE_REGIONS:
            for arg in (*args, *(kwargs or {}).values()):
                if isinstance(arg, Tensor):  # of a view, what it shows
                    self.read.add(id(arg if arg._base is None else arg._base))
            if isinstance(result, Tensor) and result.requires_grad:
                self.given.append(result)
        return result


class Severing(TorchFunctionMode):
    """Lets no gradient pass through a router: what its functions give is detached."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if routing.current_region() != "router":
            return result
        # An in-place result cannot be detached: it is the argument, which others may read too.
        in_place = any(result is arg for arg in args)
        learns = isinstance(result, Tensor) and result.requires_grad
        return result.detach() if learns and not in_place else result


def parameters_moving(model: nn.Module, *outputs: Tensor) -> set[str]:
    """Names of the parameters with a gradient from random directions of `outputs`."""
    generator = torch.Generator().manual_seed(0)
    # Random signs: a sum of equal weights could cancel. `masked_path` leaves randint random.
    directions = [
        (2 * torch.randint(2, out.shape, generator=generator) - 1).to(out.dtype) for out in outputs
    ]
    names, parameters = zip(*trainable(model), strict=True)
    if not any(out.requires_grad for out in outputs):  # autograd.grad would raise
        return set()
    found = torch.autograd.grad(
        outputs, parameters, directions, allow_unused=True, retain_graph=True
    )
    return {name for name, g in zip(names, found, strict=True) if g is not None and bool(g.any())}


def trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Names and parameters that may get gradients."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def num_elements(model: nn.Module, names: set[str]) -> int:
    """Elements of the parameters called `names`."""
    return sum(p.numel() for name, p in model.named_parameters() if name in names)


def gradients(model: nn.Module) -> Gradients:
    """The gradients that are there, by parameter."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
