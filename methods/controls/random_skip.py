"""The control for routers: another method's model with random decisions at the same budget.

A router's value is its distance to this control, which spends the same FLOPs on elements drawn at
random (random routing: Roller et al. 2021, "Hash Layers", and Zuo et al. 2022, THOR).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Annotated, Any

import torch
from torch import Generator, Tensor, nn

from bench import routing
from bench.routing import Decision
from bench.types import Batch, Range, TaskSpec


@dataclass
class RandomSkip:
    """Method `of` with its default settings and every decision shuffled, also in training.

    A token keeps its number of experts, a sample its number of tokens; a gate on whole samples is
    shuffled within the batch, so a sample alone keeps its own decision. Branches of one layer are
    shuffled together. In a causal model a stretch of tokens takes over, shuffled, the decisions
    about the stretch before it, so that nothing depends on later tokens. Inference draws the same
    numbers in every call. All else (hooks, operating points) is the other method's.
    """

    compaction = "as in the method that it shuffles"

    of: str = "moe"
    seed: Annotated[int, Range(0)] = 0
    batch_invariant = False  # where a random number falls depends on the batch

    def __post_init__(self) -> None:
        """Raises ValueError where `of` names no method, or this one."""
        # By entry point, so that an installed plugin's method can be controlled as well.
        found = {point.name: point for point in entry_points(group="condbench.methods")}
        if self.of not in found or found[self.of].value.endswith(f":{type(self).__name__}"):
            raise ValueError(f"no other method is called {self.of!r}: one of {', '.join(found)}")
        self.inner = found[self.of].load()()

    def wrap(self, model: nn.Module, spec: TaskSpec) -> nn.Module:
        """The other method's model, routed at random."""
        shuffle = Shuffle(self.seed, causal=spec.causal or spec.kind == "seq2seq")
        # Hooks, not a wrapper module: the model keeps its class, attributes and state_dict. They
        # hold no weights; `always_call` closes the context after an error too.
        model.register_forward_pre_hook(shuffle.begin)
        model.register_forward_hook(shuffle.end, always_call=True)
        return model


class Shuffle:
    """Hooks around a model's forward that shuffle its decisions, unless the harness chooses."""

    def __init__(self, seed: int, *, causal: bool) -> None:
        self.seed, self.causal = seed, causal
        self._open: list[AbstractContextManager[None]] = []

    def begin(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Before a forward pass: from here on decisions are shuffled."""
        context = self.context(args[0], training=model.training)
        context.__enter__()
        self._open.append(context)

    def end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After a forward pass, also after one that failed."""
        self._open.pop().__exit__(None, None, None)

    def context(self, batch: Batch, *, training: bool) -> AbstractContextManager[None]:
        """The context of one pass over `batch`."""
        if routing.is_forced():  # the harness forces or replays: its decisions hold
            return nullcontext()
        # Training draws new numbers in every call, inference the same ones.
        generator = None if training else torch.Generator().manual_seed(self.seed)
        return routing.override(Draw(batch, generator, self.causal))


@dataclass
class Draw:
    """The random decisions of one pass: every element takes over that of another one."""

    batch: Batch
    generator: Generator | None
    causal: bool
    sources: dict[tuple[str, torch.Size], Tensor] = field(default_factory=dict)

    def __call__(self, decision: Decision) -> Tensor:
        """Units of equal cost: others for each element. Else: decisions of other elements."""
        run = decision.run
        if decision.unit is not None and not decision.exclusive:
            # As many units for each element as before, drawn at random.
            rank = self._noise(run).argsort(-1).argsort(-1)
            return rank < run.sum(-1, keepdim=True)
        elements = run if decision.unit is None else run[..., 0]  # [n] or [n, T]
        key = decision.name, elements.shape  # a gate that decides twice in a pass draws once
        if key not in self.sources:
            self.sources[key] = self._source(decision, elements)
        source = self.sources[key]
        if decision.unit is None:
            return run.gather(-1, source)
        return run.gather(-2, source[..., None].expand_as(run))

    def _noise(self, run: Tensor) -> Tensor:
        return torch.rand(run.shape, generator=self.generator).to(run.device)

    def _source(self, decision: Decision, elements: Tensor) -> Tensor:
        """The element whose decision each takes over, shaped like `elements` [n] or [n, T]."""
        noise = self._noise(elements)
        if self.causal and decision.per_token:
            return _from_before(noise)
        real = self._real(decision)
        if real is None:
            return noise.argsort(-1)
        shuffled = noise.masked_fill(~real, 2.0).argsort(-1)  # these tokens first, in random order
        places = (~real).byte().argsort(dim=-1, stable=True)  # these tokens first, in order
        # Zeros, though all are overwritten: the FLOP meter flags reads of memory that no op wrote.
        return torch.zeros_like(places).scatter(-1, places, shuffled)

    def _real(self, decision: Decision) -> Tensor | None:
        """Which tokens there are to decide about, bool [n, T]; None: all, or whole samples."""
        if not decision.per_token:
            return None
        if decision.eligible is not None:  # neither padding nor what has left before
            return decision.eligible if decision.unit is None else decision.eligible.any(-1)
        mask = self.batch.mask
        if mask is None or mask.shape[1] != decision.run.shape[1]:
            return None
        return mask if decision.index is None else mask[decision.index]


def _from_before(noise: Tensor) -> Tensor:
    """For every token an earlier one, [B, T] from `noise` [B, T] in 0..1.

    A sixteenth of the tokens takes over the decisions about the sixteenth before it, shuffled, so
    that a sample keeps its number of tokens but for the last ones. The first ones take over that of
    a random token up to themselves.
    """
    length = noise.shape[1]
    stretch = max(2, length // 16)  # of one token there would be nothing to shuffle
    place = torch.arange(length, device=noise.device)
    shuffled = (place // stretch + noise).argsort(-1)  # inside each stretch
    first = (noise * (place + 1)).long().minimum(place)
    return torch.cat([first[:, :stretch], shuffled[:, : length - stretch]], 1)
