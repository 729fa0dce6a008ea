"""FLOPs that the decisions of a slimmable network declare: a sample at every width."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from bench.types import Batch
from methods.trunk.costs import attention_width, linear_flops, part_flops
from methods.trunk.head import pooled
from methods.trunk.state import State


class WidthCosts:
    """Costs of `model.views`, the narrowest first, whose first `depth` blocks a gate reads."""

    def __init__(self, model: Any, depth: int) -> None:
        self.tokens, self.depth = model.trunk.tokens, depth
        shadow, inputs = _shadow(model)
        self._parts = [part_flops(trunk, inputs) for trunk in shadow.views]
        state = shadow.views[0].stem(Batch(inputs, inputs))
        for block in shadow.views[0].blocks[:depth]:
            state = block(state)
        self.num_features = int(pooled(state).shape[1])
        blocks = [list(trunk.blocks) for trunk in model.views]
        # Of one token in linear layers, and of each pair of tokens in attention, by block.
        self._linear = [[linear_flops(block) for block in each] for each in blocks]
        self._pairs = [[4 * attention_width(block) for block in each] for each in blocks]

    def of_sample(self, start: State | None, *, looked: bool) -> list[float]:
        """FLOPs that one sample adds at each width.

        `start`: the state behind a stem that all widths share, of T tokens; None for maps. Where
        the gate has `looked`, the narrowest width continues from there.
        """
        first = self.depth if looked else 0
        if start is None:
            totals = [sum(parts) for parts in self._parts]
            return [totals[0] - (sum(self._parts[0][: 1 + first]) if looked else 0), *totals[1:]]
        length = start.x.shape[1]
        costs = []
        for number, (linear, pairs) in enumerate(zip(self._linear, self._pairs, strict=True)):
            begin = 0 if number else first
            costs.append(float(length * sum(linear[begin:]) + length**2 * sum(pairs[begin:])))
        return costs

    def shares(self, gate_flops: float) -> list[float]:
        """FLOPs of a whole pass at each width, the gate's look included, as shares of the dense."""
        dense, narrowest = sum(self._parts[-1]), self._parts[0]
        # The stem that transformers share is run once, whatever the width.
        look = sum(narrowest[0 if not self.tokens else 1 : 1 + self.depth]) + gate_flops
        extra = [gate_flops, *[look] * (len(self._parts) - 1)]
        return [(sum(parts) + more) / dense for parts, more in zip(self._parts, extra, strict=True)]


def _shadow(model: Any) -> tuple[Any, Tensor]:
    """A copy of the model without memory, and one sample: only shapes matter."""
    spec = model.trunk.spec
    kind = torch.long if spec.kind == "tokens" else torch.float32
    inputs = torch.zeros(1, *spec.input_shape, dtype=kind, device="meta")
    return deepcopy(model).to("meta").eval(), inputs
