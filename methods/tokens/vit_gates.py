"""AdaViT: in every block gates choose tokens, attention heads and halves of the block.

Meng et al. 2022, "AdaViT: Adaptive Vision Transformers for Efficient Image Recognition". Before
block l linear gates read its input x: each token's own for the token, the class token's (the mean
token's without one) for every head and for the two halves of the block, attention and feed-forward,

    m = [sigmoid(w x + b + noise) > 1/2],    noise in training only (Gumbel-sigmoid).

A token that is not chosen skips the block and may return in the next one; a head that is not chosen
gives zero; a half that is not chosen leaves x as it is. The loss adds, for tokens, heads and halves
each, the squared distance of the mean share that runs from a target.

Training computes all and masks. At inference each half runs on the chosen tokens of the samples
that run it, and of the heads' projections and products only those of running heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from bench import routing
from bench.types import Backbone, Batch, Output, Point, Range, TaskSpec, Unsupported
from methods.parts.blocks.gates import BlockGates, GatedBlock
from methods.parts.shifts import Shift, first_samples
from methods.trunk.gated_attention import takes_gates
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


@dataclass
class VitGates:
    """Gates in every block but the first of a trained dense model; training computes all and masks.

    `tokens`, `heads`, `halves`: the target shares that training aims at; null for no such gates.
    `temperature` is the Gumbel-sigmoid's, `target_weight` that of the squared distances. An
    operating point is a budget: the largest share of the gated blocks' FLOPs that held-out data
    spend, met by one shift of all logits.
    """

    compaction = "each half of a block runs the chosen tokens and heads of the samples that run it"

    budgets: list[Annotated[float, Range(gt=0, le=1)]] = field(
        default_factory=lambda: [0.5, 1.0, 0.8, 0.65, 0.4, 0.3, 0.2]
    )
    tokens: Annotated[float | None, Range(gt=0, le=1)] = 0.7
    heads: Annotated[float | None, Range(gt=0, le=1)] = 0.7
    halves: Annotated[float | None, Range(gt=0, le=1)] = 0.7
    temperature: Annotated[float, Range(gt=0)] = 5.0
    target_weight: Annotated[float, Range(0)] = 2.0
    train_share: Annotated[float, Range(0)] = 0.3
    open_is_dense = True  # every token, head and half runs

    def __post_init__(self) -> None:
        """Raises ValueError without a budget, and where nothing is gated."""
        if not self.budgets:
            raise ValueError("budgets is empty: give at least one, such as [0.5]")
        if self.tokens is None and self.heads is None and self.halves is None:
            raise ValueError("tokens, heads and halves are all null: give a target to one of them")

    def build(self, spec: TaskSpec, backbone: Backbone) -> GatedTrunk:
        """The untrained backbone with gates."""
        return GatedTrunk(backbone.build(spec), self)

    def convert(self, dense: Trunk, batches: Iterable[Batch]) -> GatedTrunk:
        """A copy of the trained trunk with gates."""
        return GatedTrunk(deepcopy(dense), self)

    def calibrate(self, model: GatedTrunk, batches: Iterable[Batch]) -> None:
        """Find every budget's shift on held-out batches; sets the default point."""
        held_out = first_samples(batches)
        with routing.force("open"):
            whole = self._spent(model, held_out)
        model.shift.fit(lambda: self._spent(model, held_out) / whole)

    def _spent(self, model: GatedTrunk, batches: Iterable[Batch]) -> float:
        """FLOPs that the decisions about `batches` declare."""
        with routing.observe() as seen:
            for batch in batches:
                model(batch)
        return self.declared_flops(model, seen)

    def points(self) -> list[Point]:
        """One operating point per budget, the default first."""
        return [{"budget": budget} for budget in self.budgets]

    def set_point(self, model: GatedTrunk, point: Point) -> None:
        """Use a budget's shift. Raises ValueError for a budget that is not among `budgets`."""
        model.shift.use(float(point["budget"]))

    def declared_flops(self, model: GatedTrunk, observation: routing.Observation) -> float:
        """FLOPs of the products of the decisions: running heads of running tokens, and so on."""
        return sum(block.declared_flops(observation) for block in model.gated_blocks())


class GatedTrunk(nn.Module):
    """`trunk` with gates in every block but the first, which mixes what all later gates read.

    Raises Unsupported where gates of this kind do not fit the trunk.
    """

    def __init__(self, trunk: Trunk, settings: VitGates) -> None:
        super().__init__()
        _refuse_misfits(trunk, settings)
        self.trunk, self.settings, self.shift = trunk, settings, Shift(settings.budgets)
        for number in range(1, len(trunk.blocks)):
            trunk.blocks[number] = GatedBlock(
                trunk,
                number,
                tokens=settings.tokens is not None,
                heads=settings.heads is not None,
                halves=settings.halves is not None,
                temperature=settings.temperature,
            )

    def gated_blocks(self) -> list[GatedBlock]:
        """The blocks that have gates, in order."""
        return [block for block in self.trunk.blocks if isinstance(block, GatedBlock)]

    def forward(self, batch: Batch) -> Output:
        """In training `aux_loss` holds the distances of the shares that run from their targets."""
        state: State = self.trunk.stem(batch)
        found: list[BlockGates] = []
        for block in self.trunk.blocks:
            if isinstance(block, GatedBlock):
                state, gates = block(state, self.shift.value)
                found.append(gates)
            else:
                state = block(state)
        distance = self._distance(found) if self.training else 0.0
        return Output(self.trunk.head(state), state.aux_loss + distance)

    def _distance(self, found: list[BlockGates]) -> Tensor:
        """Weighted squared distances from the targets, over all gated blocks together."""
        loss = self.shift.value.new_zeros(())
        for target, names in (
            (self.settings.tokens, ("tokens",)),
            (self.settings.heads, ("heads",)),
            (self.settings.halves, ("mix", "feed")),
        ):
            gates = [getattr(each, name) for each in found for name in names]
            if target is None or not gates:
                continue
            ran = torch.stack([gate.value.sum() for gate in gates]).sum()
            could = torch.stack([gate.num_eligible for gate in gates]).sum().clamp_min(1)
            loss = loss + (ran / could - target).square()
        return self.settings.target_weight * loss


def _refuse_misfits(trunk: Trunk, settings: VitGates) -> None:
    """Raises Unsupported where gates of the kinds that are set do not fit the trunk."""
    if not trunk.tokens:
        raise Unsupported("vit_gates chooses tokens and heads; this trunk works on feature maps")
    if trunk.spec.kind == "seq2seq":
        raise Unsupported("vit_gates declares no cost of a decoder's cross-attention")
    if trunk.spec.causal and not settings.heads == settings.halves is None:
        raise Unsupported(
            "gates of heads and halves read a whole sample: not causal; vit_gates_tokens is"
        )
    if len(trunk.blocks) < 2:
        raise Unsupported("vit_gates needs a second block: the first has no gates")
    if not takes_gates(trunk.blocks):
        raise Unsupported("vit_gates trains by hiding keys and heads, which this attention cannot")
    attentions: list[Any] = [block.attention for block in trunk.blocks]
    if settings.heads is not None and any(each.grouped for each in attentions):
        raise Unsupported("heads that share keys and values cannot be left out one by one")
