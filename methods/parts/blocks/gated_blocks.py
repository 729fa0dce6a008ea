"""Whole blocks that a sample runs or skips: what they cost, and how they are run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.routing import region
from bench.types import Batch, Unsupported
from methods.trunk.costs import layer_flops
from methods.trunk.state import State
from methods.trunk.trunk import Trunk


def run_on(block: nn.Module, state: State) -> Callable[[Tensor | None], Tensor]:
    """The block's result for the samples `rows` [n] (None: all), as `dispatch` calls it."""

    def run(rows: Tensor | None) -> Tensor:
        with region("expert"):
            new: State = block(state if rows is None else state.select(rows))
        return new.x

    return run


def run_masked(block: nn.Module, state: State, value: Tensor) -> Tensor:
    """x + value (block(x) - x), with a factor `value` [B]: computes the block for all samples."""
    factor = value.to(state.x.dtype).view(-1, *[1] * (state.x.dim() - 1))
    # The gate scales what the block adds, not the residual stream.
    return torch.lerp(state.x, run_on(block, state)(None).to(state.x.dtype), factor)


def skippable(trunk: Trunk) -> tuple[list[int], dict[int, float]]:
    """The width before each block, and the FLOPs of one sample in each that can be skipped.

    Raises Unsupported where a sample's gate would read later tokens, or nothing can be skipped.
    """
    if trunk.spec.causal or trunk.spec.kind == "seq2seq":
        raise Unsupported("a sample's gate reads all of its tokens: not causal")
    widths, costs = trace_blocks(trunk)
    if not costs:
        raise Unsupported("no block keeps the shape of its input: none can be skipped")
    return widths, costs


@torch.no_grad()
def trace_blocks(trunk: Trunk) -> tuple[list[int], dict[int, float]]:
    """The width before each block, and the FLOPs of one sample in each that keeps the shape."""
    # One blank sample through the trunk: only shapes matter.
    kind, was_training = trunk.spec.kind, trunk.training
    blank = torch.zeros(1, *trunk.spec.input_shape, device=next(trunk.parameters()).device)
    inputs = blank.long() if kind == "tokens" else blank
    state, widths, costs = trunk.eval().stem(Batch(inputs, inputs)), list[int](), dict[int, float]()
    pairs = [cost.pair for cost in trunk.block_costs()]
    for i, block in enumerate(trunk.blocks):
        with layer_flops(block) as calls:
            new = block(state)
        widths.append(state.x.shape[1] if state.x.dim() == 4 else state.x.shape[2])
        # A multi-scale state's finer maps change even where x keeps its shape.
        if new.x.shape == state.x.shape and type(new) is State:
            # Attention's products are no layers: the trunk declares what a pair of tokens costs.
            costs[i] = sum(calls) + pairs[i] * state.x.shape[1] ** 2
        state = new
    trunk.train(was_training)
    return widths, costs
