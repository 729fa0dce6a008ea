"""Routing of experts as a stated workload: which experts an element gets, not how many.

An untrained router sends most tokens to a few experts, a trained one does not, and the time of a
mixture depends on it. Here a gate keeps the number of experts of each element, and the experts are

    balanced   taken in turn: of any run of tokens every expert gets as many, up to one
    zipf       drawn, the expert of rank r with probability proportional to 1 / r
    hot        the same ones for all elements
    recorded   drawn with the shares of a recorded load, gate by gate

Drawn without replacement, so that loads are flatter than these probabilities where an element gets
several. Which expert has which rank differs from gate to gate. The same input gets the same experts
in every pass and process, alone and in a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench.routing.decisions import Decision
from bench.routing.share import ShareOfGates

if TYPE_CHECKING:
    from torch import Generator, Tensor

Routing = Literal["own", "balanced", "zipf", "hot", "recorded"]
OWN: Routing = "own"  # what the router decides
ROUTINGS: tuple[Routing, ...] = get_args(Routing)


def routes(decision: Decision) -> bool:
    """Whether the gate routes to experts: several choices of equal cost, any number of which run.

    Branches of different cost are none, and neither is one of several choices that excludes the
    others: which of them runs is how much runs.
    """
    if decision.observed_only or decision.payload is not None or decision.exclusive:
        return False
    costs = decision.costs()
    return decision.unit == "choice" and len(costs) > 1 and len(set(costs)) == 1


@dataclass
class StatedExperts:
    """The experts that elements of inputs numbered 0 to `num_inputs` - 1 get at a stated routing.

    `loads`: for `recorded`, each gate's share of elements per expert. Raises ValueError for a
    routing that is no other than the router's own.
    """

    routing: Routing
    num_inputs: int
    loads: Mapping[str, Sequence[float]] = field(default_factory=dict)
    _drawn: dict[Any, Tensor] = field(default_factory=dict)  # by gate and shape: drawn once

    def __post_init__(self) -> None:
        if self.routing not in ROUTINGS or self.routing == OWN:
            others = ", ".join(each for each in ROUTINGS if each != OWN)
            raise ValueError(f"routing={self.routing!r}: a stated one is one of {others}")

    def choose(self, numbers: Tensor, decision: Decision) -> Tensor:
        """What runs, bool [n, ..., E]: as many experts of each element as in `decision.run`.

        Raises ValueError for a gate whose load was not recorded.
        """
        run = decision.run
        rows = numbers if decision.index is None else numbers[decision.index]
        wanted = run.sum(-1, keepdim=True)  # [n, ..., 1]
        if self.routing in ("zipf", "recorded"):
            return self._drawn_ranks(decision)[rows] < wanted
        # The place of each expert in the turn, counted from the first one of this element.
        first = _first(decision.name, run.shape[-1])
        start: int | Tensor = first
        if self.routing == "balanced":
            turn = rows if run.dim() == 2 else rows[:, None] + _arange(run.shape[1], run)
            start = turn[..., None] * wanted + first
        return (_arange(run.shape[-1], run) - start) % run.shape[-1] < wanted

    def _drawn_ranks(self, decision: Decision) -> Tensor:
        """The rank of each expert for each element of every input, int64 [num_inputs, ..., E]."""
        shape = decision.run.shape[1:]
        key = (decision.name, shape, decision.run.device)
        if key not in self._drawn:
            import torch  # not at the top: reading records imports this package without torch

            # From the name, not from a counter: other processes meet gates in another order.
            generator = torch.Generator().manual_seed(zlib.crc32(decision.name.encode()))
            chance = self._probabilities(decision.name, shape[-1], generator)
            # Tokens outermost: a longer batch begins with the draws of a shorter one.
            drawn = torch.rand((*shape[:-1], self.num_inputs, shape[-1]), generator=generator)
            noise = drawn.movedim(-2, 0).double()
            # The k largest of log p + Gumbel noise are k draws without replacement.
            keys = chance.log() - (-noise.clamp(1e-12, 1 - 1e-7).log()).log()
            ranks = keys.argsort(-1, descending=True).argsort(-1)
            self._drawn[key] = ranks.to(decision.run.device)
        return self._drawn[key]

    def _probabilities(self, name: str, num_experts: int, generator: Generator) -> Tensor:
        """The probability of each expert, float64 [E]."""
        import torch

        if self.routing == "zipf":
            ranks = torch.randperm(num_experts, generator=generator)
            return 1 / (1 + ranks.double())
        load = self.loads.get(name)
        if load is None or len(load) != num_experts:
            known = ", ".join(f"{gate} ({len(each)})" for gate, each in self.loads.items())
            raise ValueError(
                f"routing=recorded: no load of {num_experts} experts of gate {name!r} is recorded; "
                f"there are {known or 'none'}"
            )
        return torch.tensor(load, dtype=torch.float64)


@dataclass
class StatedGates:
    """How much runs at every gate, and which experts, where either is stated."""

    share: ShareOfGates | None = None
    experts: StatedExperts | None = None

    def choose(self, numbers: Tensor, decision: Decision) -> Tensor:
        """What runs, bool like `decision.run`, in a batch of the inputs `numbers` [B]."""
        if self.share is not None:
            # First: it fixes the number of experts that the routing keeps.
            decision = replace(decision, run=self.share.choose(numbers, decision))
        if self.experts is not None and routes(decision):
            return self.experts.choose(numbers, decision)
        return decision.run


def _first(name: str, num_experts: int) -> int:
    """The expert that a gate's first element gets first."""
    return zlib.crc32(name.encode()) % num_experts


def _arange(number: int, like: Tensor) -> Tensor:
    import torch

    return torch.arange(number, device=like.device)
