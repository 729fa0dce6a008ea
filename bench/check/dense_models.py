"""`condbench check` of a backbone: the contracts of a method that changes nothing, and factories.

The dense forward pass is the baseline of every method, so that it keeps what they keep: finite,
batched as alone, blind to padding and to later tokens, counted. Besides, what a method hands to
`build` has to end up in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.check.candidate import FEW, Candidate
from bench.check.contract import Broken, NotDefined
from bench.check.tiny_tasks import SIZES
from bench.plugins import Plugin, construct
from bench.plugins.annotations import setting_types
from bench.types import Backbone, TaskSpec, Unsupported

TRUNK = ("stem", "blocks", "head", "dim", "tokens", "class_token", "new_head", "block_costs")


@dataclass
class Dense:
    """The method that changes nothing."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        model: nn.Module = backbone.build(spec)
        return model


def small(plugin: Plugin, settings: Mapping[str, Any]) -> Any:
    """The backbone with its settings, made small where it has fields for its size."""
    cls = plugin.load()
    sizes = {name: size for name, size in SIZES.items() if name in setting_types(cls)}
    try:
        return construct(cls, {**settings, **sizes})
    except (TypeError, ValueError):  # sizes that do not go with its other settings
        return construct(cls, settings)


def is_a_trunk(candidate: Candidate) -> None:
    """The model has the parts that methods touch, and logits for every output."""
    model = candidate.model
    if missing := [name for name in TRUNK if not hasattr(model, name)]:
        raise Broken(f"the model has no {', '.join(missing)}: methods that drive a trunk need them")
    batch, spec = candidate.tiny.batch(FEW), candidate.tiny.spec
    positions = batch.targets.shape  # [B], or [B, T] where each position is predicted
    expected = (*positions, spec.num_outputs)
    with torch.no_grad():
        found = tuple(model(batch).logits.shape)
    if found != expected:
        raise Broken(f"logits of shape {list(found)} instead of {list(expected)}")


def honours_factories(candidate: Candidate) -> None:
    """What `ffn=`, `attention=` and `block=` make is in the model and computed, or is refused."""
    refused = [name for name in FACTORIES if not _honours(candidate, name)]
    if len(refused) == len(FACTORIES):
        raise NotDefined("every factory is refused")


def _honours(candidate: Candidate, name: str) -> bool:
    """False where the backbone refuses the factory. Raises Broken where it ignores it."""
    made: list[nn.Module] = []

    def factory(*given: Any, **named: Any) -> nn.Module:
        made.append(FACTORIES[name](*given, **named))
        return made[-1]

    try:
        model = candidate.backbone.build(candidate.tiny.spec, **{name: factory})
    except Unsupported:
        return False
    if not made:
        raise Broken(f"build({name}=...) never calls the factory; refuse it with Unsupported")
    inside = set(model.modules())
    if not all(each in inside for each in made):
        raise Broken(f"what {name}= makes is not a part of the model")
    if idle := len(made) - _num_called(model.eval(), made, candidate):
        raise Broken(f"{idle} of {len(made)} modules that {name}= made are never called")
    return True


def _num_called(model: nn.Module, made: list[nn.Module], candidate: Candidate) -> int:
    called: set[nn.Module] = set()
    # A block may be called through its halves, which pass no hook of its own: look at its parts.
    parts = {part: each for each in made for part in each.modules()}
    handles = [
        part.register_forward_pre_hook(lambda module, given: called.add(parts[module]))
        for part in parts
    ]
    with torch.no_grad():
        model(candidate.tiny.batch(FEW))
    for handle in handles:
        handle.remove()
    return len(called)


class _Ffn(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found


class _Attention(nn.Module):
    """Every token keeps to itself; takes whatever an attention layer is given."""

    def __init__(self, dim: int, num_heads: int, **named: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found


def _same_block(index: int, make: Callable[[], nn.Module]) -> nn.Module:
    return make()


FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "ffn": _Ffn,
    "attention": _Attention,
    "block": _same_block,
}
