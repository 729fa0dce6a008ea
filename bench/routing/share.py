"""Gates at a stated share: decisions that follow from the share, and from nothing that was learned.

What a model of published size would save can be measured without training it, but an untrained gate
decides nonsense. Here every gate lets a stated share of its elements run:

    samples               the share of all numbered inputs, other ones at every gate
    tokens                the same number of every sample's eligible tokens, at random places
    heads, neurons, ...   the same number of units of every element, at least one
    steps                 as many of the first ones
    one of several        the share takes the dearest choice, the others the cheapest

The same input gets the same decisions in every pass and process, alone and in a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bench.routing.context import here
from bench.routing.decisions import Decision
from bench.routing.forcing import only

if TYPE_CHECKING:
    from torch import Tensor


class Gates(Protocol):
    """What decides for gates by the numbers of inputs, such as `ShareOfGates`."""

    def choose(self, numbers: Tensor, decision: Decision) -> Tensor:
        """What runs, bool like `decision.run`, in a batch of the inputs `numbers` [B]."""
        ...


@contextmanager
def at_share(gates: Gates, numbers: Tensor) -> Iterator[None]:
    """Let `gates` decide inside, except where decisions are forced, replayed or overridden.

    `numbers` [B]: the number of each sample of the batch, as `gates` counts inputs.
    """
    before, here.at_share = here.at_share, partial(gates.choose, numbers)
    try:
        yield
    finally:
        here.at_share = before


def takes_share(decision: Decision) -> bool:
    """Whether a share is defined for the decision.

    It is not for the result of a computation, for tokens that are merged or fused (a schedule sets
    how many), and for one of several choices that cost the same.
    """
    if decision.observed_only or decision.payload is not None:
        return False
    return not decision.exclusive or len(set(decision.costs())) > 1


@dataclass
class ShareOfGates:
    """The decisions of all gates at `share`, for inputs numbered 0 to `num_inputs` - 1.

    Raises ValueError for a share outside (0, 1].
    """

    share: float
    num_inputs: int
    # By gate and shape: a timed pass draws no random numbers and compares no costs.
    _drawn: dict[Any, Tensor] = field(default_factory=dict)
    _extremes: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the share that gates run is in (0, 1], not {self.share}")

    def choose(self, numbers: Tensor, decision: Decision) -> Tensor:
        """What runs, bool like `decision.run`, in a batch of the inputs `numbers` [B]."""
        if not takes_share(decision):
            return decision.run
        if decision.unit is not None and not decision.exclusive:
            return self._units(decision)
        eligible = decision.eligible
        if decision.exclusive and eligible is not None:
            eligible = eligible.any(-1)
        if decision.per_token:
            chosen = self._tokens(decision, eligible)
        else:
            chosen = self._samples(decision, numbers)
        return self._one_of(decision, chosen) if decision.exclusive else chosen

    def _samples(self, decision: Decision, numbers: Tensor) -> Tensor:
        """Which samples run, bool [n]: the share of all numbered inputs."""
        part = self._keep(decision, (self.num_inputs,), self._part)
        return part[numbers if decision.index is None else numbers[decision.index]]

    def _tokens(self, decision: Decision, eligible: Tensor | None) -> Tensor:
        """Of every sample's eligible tokens the share, bool [n, T]."""
        shape = decision.run.shape[:2]
        if eligible is None:
            return self._keep(decision, shape[1:], self._part).expand(shape).contiguous()
        noise = self._keep(decision, shape[1:], lambda noise: noise).expand(shape)
        rank = _rank(noise.masked_fill(~eligible, 2.0))
        return rank < (self.share * eligible.sum(-1, keepdim=True)).round()

    def _units(self, decision: Decision) -> Tensor:
        """As many units of every element as the share of all, at least one, bool [..., G]."""
        shape = decision.run.shape
        # A step follows on the one before it: the first ones run.
        sort = decision.unit == "step"
        part = self._keep(
            decision, shape[1:], lambda noise: self._part(noise.sort().values if sort else noise, 1)
        )
        return part.expand(shape).contiguous()

    def _one_of(self, decision: Decision, dear: Tensor) -> Tensor:
        """The dearest choice where `dear` [n] or [n, T], elsewhere the cheapest, bool [..., G]."""
        key = (decision.name, decision.run.shape, decision.run.device)
        extremes = self._extremes.get(key) if decision.eligible is None else None
        if extremes is None:
            run = decision.run
            costs = run.new_tensor(decision.costs(), dtype=decision.probabilities.dtype)
            costs = costs.expand(run.shape)
            extremes = only(run, costs, decision.eligible), only(run, -costs, decision.eligible)
            self._extremes[key] = extremes
        dearest, cheapest = extremes
        return dearest.where(dear[..., None], cheapest)

    def _part(self, noise: Tensor, least: int = 0) -> Tensor:
        """Of each row [..., G] the share with the lowest noise, at least `least`, as bool."""
        return _rank(noise) < max(least, round(self.share * noise.shape[-1]))

    def _keep(
        self, decision: Decision, shape: tuple[int, ...], make: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`make` of uniform noise of a `shape`, made at a gate's first call."""
        key = (decision.name, shape, decision.run.device)
        if key not in self._drawn:
            import torch  # not at the top: reading records imports this package without torch

            # From the name, not from a counter: other processes meet gates in another order. On
            # the CPU, so that decisions are the same on every device.
            generator = torch.Generator().manual_seed(zlib.crc32(repr(key[:2]).encode()))
            self._drawn[key] = make(torch.rand(shape, generator=generator)).to(decision.run.device)
        return self._drawn[key]


def _rank(noise: Tensor) -> Tensor:
    """The rank of each element in its row, from 0 for the lowest."""
    return noise.argsort(-1).argsort(-1)  # the inverse of a sort
