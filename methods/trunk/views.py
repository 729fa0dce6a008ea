"""Views: a second tree of modules over the same parameters, in which some modules are others.

    narrow = view(trunk, replace)   # `replace(module)`: another module, or None to look inside

What `replace` leaves alone is shared with the original, so that training one trains the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Replace = Callable[[nn.Module], nn.Module | None]


def view(module: Module, replace: Replace) -> Module:
    """`module` with every replacement in its place; `module` itself where there is none."""
    new = replace(module)
    if new is not None:
        return new  # type: ignore[return-value]
    children = {
        name: None if child is None else view(child, replace)
        for name, child in module._modules.items()
    }
    if all(new is module._modules[name] for name, new in children.items()):
        return module
    other = twin(module)
    other._modules = children
    return other


def twin(module: Module) -> Module:
    """A module with the same parameters and buffers, whose children can be replaced."""
    other = copy.copy(module)
    # A shallow copy shares the dictionary of children: setting one would change the original's.
    other._modules = dict(module._modules)
    return other


def own_norms(module: nn.Module) -> nn.Module | None:
    """A `Replace`: a copy of every batch norm, whose statistics are those of this view alone."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return copy.deepcopy(module)
    return None


def cut_norm(norm: nn.BatchNorm2d, num_channels: int) -> nn.BatchNorm2d:
    """A batch norm of its own that begins as the first channels of `norm`."""
    state = {k: v[:num_channels] if v.dim() else v for k, v in norm.state_dict().items()}
    device = next(iter(state.values())).device
    new = nn.BatchNorm2d(num_channels, norm.eps, norm.momentum, norm.affine, device=device)
    new.load_state_dict(state)
    return new.train(norm.training)
