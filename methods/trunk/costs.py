"""FLOPs of a trunk's layers: from their weights, or from the shapes that pass through them.

Declared costs of decisions come from here, not from the FLOP meter: a method needs them while it is
built, and the meter then checks them independently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.routing import Cost
from bench.types import Batch


def linear_flops(module: nn.Module) -> int:
    """FLOPs (2 x MAC) that the linear layers inside `module` spend on one token."""
    # Biases, norms and activations are no products: the meter counts 2 x MAC only.
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def cost_of_tokens(block: Any, cost: Cost, memory: Tensor | None) -> Cost:
    """What a token costs in `block`, whose entry in `Trunk.block_costs` is `cost`.

    In a decoder also what it reads from the encoder's output `memory` [B, S, D]: scores and mixing
    take 2 D each for each of the S tokens, and a sample of which any token runs pays for their keys
    and values.
    """
    cross = getattr(block, "cross", None)
    if cross is None or memory is None:
        return cost
    assert not isinstance(cost.element, tuple)
    num_read = memory.shape[1]
    # `cost` counts all weights once for each token, and these work on the encoder's tokens.
    key_value = 4.0 * cross.dim * cross.kv_dim
    element = cost.element - key_value + 4.0 * num_read * cross.dim
    return Cost(element, cost.pair, cost.sample + num_read * key_value)


@contextmanager
def layer_flops(model: nn.Module) -> Iterator[list[int]]:
    """FLOPs (2 x MAC) of every call of a convolution or linear layer of `model`, as it happens.

    Reads shapes only, so that this also works on the meta device.
    """
    found: list[int] = []

    def add(layer: Any, inputs: Any, output: Tensor) -> None:
        # weight[0] is one output channel: inputs, or inputs / groups x kernel area.
        found.append(2 * output.numel() * layer.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def part_flops(trunk: Any, inputs: Tensor) -> list[float]:
    """FLOPs (2 x MAC) of the stem, of every block and of the head for `inputs`, from shapes.

    `trunk` and `inputs` [B, ...] are on the meta device, where nothing is computed and batch norm
    statistics stay as they are. Attention's products count 4 D T^2 per sample and block.
    """
    found: list[float] = []
    with layer_flops(trunk) as calls:
        state = trunk.stem(Batch(inputs, inputs))
        for block in trunk.blocks:
            found.append(float(sum(calls)))
            calls.clear()
            # They are no layers: scores and mixing take 2 D each for every pair of tokens.
            calls.append(len(inputs) * 4 * attention_width(block) * state.x.shape[1] ** 2)
            state = block(state)
        found.append(float(sum(calls)))
        calls.clear()
        trunk.head(state)
        found.append(float(sum(calls)))
    return found


def attention_width(block: Any) -> int:
    """The width of a block's attention heads together; 0 where it has none."""
    return int(getattr(getattr(block, "attention", None), "dim", 0))
