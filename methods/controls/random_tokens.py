"""The control for token reduction: as many tokens in every block, drawn at random.

A reduction's value is its distance to this control, which spends the same FLOPs in the blocks on
tokens that nothing chose. Simple rules are strong baselines here (Haurum et al. 2023, "Which Tokens
to Use? Investigating Token Reduction in Vision Transformers"). What is not drawn is dropped,
neither merged nor fused.

At inference a sample's order of tokens is a hash of its own pixels, so that it does not depend on
the batch; in training every pass draws a new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Any

import torch
from torch import Tensor

from bench.routing import Observation, is_read, region
from bench.types import Backbone, Batch, Point, Range, TaskSpec
from methods.parts.tokens.reduction import ReducedTrunk, compact, live_tokens
from methods.trunk.state import State
from methods.trunk.trunk import Trunk

STEPS = 1024.0  # a pixel counts in steps of 1/1024: integers, whose sum no order of adding changes
MAX_PIXELS = 256  # of a sample, evenly spread, that its hash reads
# Odd constants of 64 bits with mixed bits: Knuth's golden ratio and those of splitmix64 (Steele et
# al. 2014, Fast Splittable Pseudorandom Number Generators), as signed numbers.
GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


@dataclass
class RandomTokens:
    """As many tokens after each block as method `of` leaves with its default settings, at random.

    Operating points and share of training are that method's too. It must define `tokens_left(trunk,
    point)`, as `evit` and `tome` do.
    """

    compaction = "the same number of tokens of every sample, gathered"
    open_is_dense = True

    of: str = "evit"
    seed: Annotated[int, Range(0)] = 0

    def __post_init__(self) -> None:
        """Raises ValueError where `of` names no method that fixes the number of tokens."""
        # By entry point, so that an installed plugin's method can be controlled as well.
        found = {point.name: point for point in entry_points(group="condbench.methods")}
        # Not `inner`: of the method only the numbers are taken, none of its hooks.
        self._counted = found[self.of].load()() if self.of in found else None
        if not hasattr(self._counted, "tokens_left"):
            raise ValueError(
                f"of={self.of!r} is no method with a fixed number of tokens in every block (one "
                "with tokens_left, such as evit or tome)"
            )

    @property
    def train_share(self) -> float:
        """The share of the recipe's steps that the other method trains."""
        share: float = getattr(self._counted, "train_share", 1.0)
        return share

    def build(self, spec: TaskSpec, backbone: Backbone) -> PrunedTrunk:
        """The untrained backbone with random tokens."""
        return self._prune(backbone.build(spec))

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> PrunedTrunk:
        """A copy of the trained trunk with random tokens."""
        return self._prune(deepcopy(dense))

    def _prune(self, trunk: Trunk) -> PrunedTrunk:
        model = PrunedTrunk(trunk, self.seed)
        for point in reversed(self.points()):  # what one of them cannot do is raised here
            self.set_point(model, point)
        return model

    def points(self) -> list[Point]:
        """The other method's operating points."""
        counted: Any = self._counted
        found: list[Point] = counted.points()
        return found

    def set_point(self, model: PrunedTrunk, point: Point) -> None:
        """Keep as many tokens as the other method at `point`."""
        counted: Any = self._counted
        model.set_lengths(counted.tokens_left(model.trunk, point))

    def declared_flops(self, model: PrunedTrunk, observation: Observation) -> float:
        """FLOPs of the blocks at the lengths that are left."""
        return model.declared_flops(observation)


class PrunedTrunk(ReducedTrunk):
    """A trunk that leaves `lengths[i]` tokens after block i's attention, in a random order."""

    verb = "drop"

    def __init__(self, trunk: Trunk, seed: int) -> None:
        super().__init__(trunk)
        self.seed = seed

    def set_lengths(self, lengths: list[int]) -> None:
        """Leave these numbers of tokens, the class token included, one number for each block."""
        self.lengths = lengths
        before = [self.num_tokens, *lengths]
        self.stages = tuple(i for i, left in enumerate(lengths) if left < before[i])

    def begin(self, batch: Batch) -> State:
        """The tokens in a random order, so that dropping some is cutting them off."""
        state = super().begin(batch)
        first = int(self.trunk.class_token)
        shape = (len(batch), self.num_tokens - first)
        with region("router"):
            if self.training:
                numbers = torch.rand(shape, device=state.x.device)
            else:
                numbers = hashed(batch.inputs, shape[1], self.seed)
            order = numbers.argsort(1)
        with region("dispatch"):
            if first:  # the class token stays in front
                order = torch.cat([order.new_zeros(len(order), 1), order + 1], 1)
            return state.take(order)

    def reduce(self, number: int, state: State, view: Any) -> State:
        """Decide, and cut the tokens off."""
        length = min(self.lengths[number], state.x.shape[1])
        if state.mask is None and not is_read():
            with region("dispatch"):  # nothing reads the decision: no need to write it down
                return _first(state, length)
        with region("router"):
            eligible = self.eligible(state)
            run = eligible.clone()
            run[:, length:] = False
            decision = self.announce(number, state, run.float(), run, eligible)
        with region("dispatch"):
            if decision.run is not run or state.mask is not None:
                stays = live_tokens(state) & ~(eligible & ~decision.run)
                return compact(state, _at_least_one(state, stays))
            return _first(state, length)


def _first(state: State, length: int) -> State:
    """The first `length` tokens of every sample."""
    assert state.positions is not None
    return state.changed(x=state.x[:, :length], positions=state.positions[:, :length])


def _at_least_one(state: State, stays: Tensor) -> Tensor:
    """`stays` [B, N] bool, and of a sample that would lose all tokens the first of the image."""
    # By original position: a replay in training has another order of tokens.
    last = torch.iinfo(torch.int64).max
    first = state.token_positions().masked_fill(~live_tokens(state), last).argmin(1, keepdim=True)
    return stays.scatter(1, first, stays.gather(1, first) | ~stays.any(1, keepdim=True))


def hashed(inputs: Tensor, num_tokens: int, seed: int) -> Tensor:
    """Pseudo-random integers [B, `num_tokens`], which depend on the sample's own pixels alone.

    `inputs` [B, ...]. Two samples that agree in the pixels that are read get the same numbers.
    """
    pixels = inputs.flatten(1)  # [B, P]
    pixels = pixels[:, :: -(-pixels.shape[1] // MAX_PIXELS)].float()
    steps = (pixels * STEPS).round().long()
    place = torch.arange(1, steps.shape[1] + 1, device=inputs.device)
    # Integers wrap around at 2^64: their sum is the same in whatever order it is added.
    sample = (mixed(steps + place * GOLDEN)).sum(1, keepdim=True) + seed  # [B, 1]
    token = torch.arange(1, num_tokens + 1, device=inputs.device)
    return mixed(mixed(sample) + token * GOLDEN)


def mixed(numbers: Tensor) -> Tensor:
    """splitmix64's finaliser: a bijection of 64-bit integers whose results look random."""
    numbers = (numbers ^ _shifted(numbers, 30)) * FIRST
    numbers = (numbers ^ _shifted(numbers, 27)) * SECOND
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, num_bits: int) -> Tensor:
    """The bits of `numbers` moved right, with zeros in their place: torch repeats the sign."""
    return (numbers >> num_bits) & ((1 << (64 - num_bits)) - 1)
