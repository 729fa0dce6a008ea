"""The control for routers: another method's model with random decisions at the same budget.

What a router is worth is the distance to this control, which spends the same FLOPs on elements
drawn at random (random routing: Roller et al. 2021, "Hash Layers", and Zuo et al. 2022, THOR).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from bench import routing
from bench.types import Backbone, TaskSpec


@dataclass
class RandomSkip:
    """Method `of` with its default settings and every decision shuffled, also in training.

    A token keeps its number of experts, a sample its number of tokens; a gate on whole samples is
    shuffled within the batch, so a sample alone keeps its own decision. Inference draws the same
    numbers in every call. Everything else (hooks, operating points) is the other method's.
    """

    compaction = "as in the method that it shuffles"

    of: str = "moe"
    seed: int = 0
    batch_invariant = False  # where a random number falls depends on the batch

    def __post_init__(self) -> None:
        """Raises ValueError where no method is called `of`, or it is this one."""
        doors = {door.name: door for door in entry_points(group="condbench.methods")}
        if self.of not in doors or doors[self.of].value.endswith(f":{type(self).__name__}"):
            raise ValueError(f"no other method is called {self.of!r}: one of {', '.join(doors)}")
        self._method = doors[self.of].load()()

    def __getattr__(self, name: str) -> Any:
        """The other method's optional hooks, where it has them."""
        if name.startswith("_"):  # not made yet: copying and unpickling look before __post_init__
            raise AttributeError(name)
        hook = getattr(self._method, name)
        return self._randomizing(hook) if name == "convert" else hook

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The other method's model, routed at random."""
        return self._randomizing(self._method.build)(spec, backbone)

    def _randomizing(self, make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def made(*args: Any) -> nn.Module:
            model, shuffle = make(*args), Shuffle(self.seed)
            model.register_forward_pre_hook(shuffle.begin)
            model.register_forward_hook(shuffle.end, always_call=True)
            return model

        return made


class Shuffle:
    """Hooks around a model's forward that shuffle its decisions, unless the harness chooses."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._open: list[AbstractContextManager[None]] = []

    def begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Training draws new numbers in every call, inference the same ones."""
        context: AbstractContextManager[None] = nullcontext()
        if not routing.is_forced():
            generator = None if model.training else torch.Generator().manual_seed(self.seed)
            context = routing.force("random", generator=generator)
        context.__enter__()
        self._open.append(context)

    def end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Also called when the forward pass failed."""
        self._open.pop().__exit__(None, None, None)
