"""What compute is allocated to in a block: its tokens, or whole samples.

Both say what a gate reads, announce its decision, and run the block on what the gate lets through:
all of it with a factor in training, at inference only what runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from bench import routing
from bench.types import Unsupported
from methods.parts import dispatch
from methods.parts.blocks.gated_blocks import run_masked, run_on, skippable
from methods.parts.tokens.class_token import eligible_tokens, pairs_with_class, with_class
from methods.parts.tokens.running_tokens import num_held, run_blocks
from methods.trunk.costs import cost_of_tokens
from methods.trunk.gated_attention import AttentionGates, takes_gates
from methods.trunk.head import pooled
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


class Elements(Protocol):
    """The elements of every block that gates decide about."""

    widths: dict[int, int]  # of what a gate reads, by the number of a block that has one
    flops: dict[int, float]  # of one element in the block's layers

    def read(self, state: State) -> Tensor:
        """What a gate reads, [B, T, D] or [B, D]."""
        ...

    def eligible(self, state: State) -> Tensor | None:
        """The elements that gates decide about, bool [B, T] or [B]; None: all."""
        ...

    def decide(
        self, number: int, block: Any, state: State, probability: Tensor, run: Tensor
    ) -> Tensor:
        """Announce the gate of `block`, which has this number; returns what is to run."""
        ...

    def run_masked(self, block: Any, state: State, value: Tensor) -> State:
        """Everything computed, and what the block adds multiplied by `value`."""
        ...

    def run_chosen(self, block: Any, state: State, run: Tensor) -> State:
        """Only what runs computed."""
        ...


class Tokens:
    """The tokens of a row; those that run a block attend to one another only, in training too.

    A class token always runs. Raises Unsupported for feature maps, and with `masks_in_training` for
    attention that cannot hide keys.
    """

    def __init__(self, trunk: Trunk, *, masks_in_training: bool = True) -> None:
        if not trunk.tokens:
            raise Unsupported(
                "each token gets compute of its own, and this trunk works on feature maps:"
                " allocation_samples allocates to whole samples"
            )
        if masks_in_training and not takes_gates(trunk.blocks):
            raise Unsupported("training hides the keys of closed tokens; this attention cannot")
        self._class_token, self._costs = trunk.class_token, trunk.block_costs()
        self.widths = dict.fromkeys(range(len(trunk.blocks)), trunk.dim)
        self.flops = {i: as_number(cost.element) for i, cost in enumerate(self._costs)}

    def read(self, state: State) -> Tensor:
        """Each token's own x, [B, T, D]: no decision depends on another token."""
        return state.x

    def eligible(self, state: State) -> Tensor | None:
        """Real tokens but the class token, bool [B, T]; None: all."""
        return eligible_tokens(state, self._class_token)

    def decide(
        self, number: int, block: Any, state: State, probability: Tensor, run: Tensor
    ) -> Tensor:
        """Announce the gate of `block`; all [B, T]."""
        eligible = self.eligible(state)
        return routing.decide(
            f"block{number}",
            axes=routing.TOKENS,
            probabilities=probability,
            run=run if eligible is None else run & eligible,
            cost=cost_of_tokens(block, self._costs[number], state.memory),
            eligible=eligible,
            past=lambda: self._past(block, state, run),
        )

    def _past(self, block: Any, state: State, run: Tensor) -> Tensor | None:
        if state.cache is not None:
            return num_held(block, state)
        return pairs_with_class(run, self._class_token)

    def run_masked(self, block: Any, state: State, value: Tensor) -> State:
        """x + value (block(x) - x), where closed tokens are hidden from the others as keys."""
        value = with_class(value, self._class_token)  # [B, T]
        new: State = block.feed(block.mix(state, gates=AttentionGates(value)))
        factor = value[..., None].to(state.x.dtype)
        return new.with_x(torch.lerp(state.x, new.x.to(state.x.dtype), factor))

    def run_chosen(self, block: Any, state: State, run: Tensor) -> State:
        """The block on running tokens; the others stay bit for bit."""
        live = with_class(run, self._class_token)
        # Padding is never live, and masks do not fit packed tokens.
        new = run_blocks([block], replace(state, mask=None, routed=None), live)
        return replace(new, mask=state.mask, routed=state.routed)


class Samples:
    """Whole samples, on feature maps too; a block that changes the state's shape always runs.

    Raises Unsupported where a sample's gate would read later tokens, or nothing can be skipped.
    """

    def __init__(self, trunk: Trunk) -> None:
        widths, self.flops = skippable(trunk)
        self.widths = {number: widths[number] for number in self.flops}

    def read(self, state: State) -> Tensor:
        """The mean over places or real tokens, [B, D]."""
        return pooled(state)

    def eligible(self, state: State) -> Tensor | None:
        """None: all samples."""
        return None

    def decide(
        self, number: int, block: Any, state: State, probability: Tensor, run: Tensor
    ) -> Tensor:
        """Announce the gate of `block`; all [B]."""
        return routing.decide(
            f"block{number}",
            axes=routing.SAMPLES,
            probabilities=probability,
            run=run,
            cost=self.flops[number],
        )

    def run_masked(self, block: Any, state: State, value: Tensor) -> State:
        """x + value (block(x) - x)."""
        return state.with_x(run_masked(block, state, value))

    def run_chosen(self, block: Any, state: State, run: Tensor) -> State:
        """The block on the running samples, gathered."""
        return state.with_x(dispatch.where_kept(run_on(block, state), state.x, run))


def as_number(element: float | tuple[float, ...]) -> float:
    """A token's cost where it has no units."""
    assert not isinstance(element, tuple)
    return element
