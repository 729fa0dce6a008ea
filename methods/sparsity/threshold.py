"""Sparse activation without training: small numbers are taken for 0, and their weights not read.

Liu et al. 2024, "Training-Free Activation Sparsity in Large Language Models" (TEAL): the inputs of
every linear layer whose magnitude is below a threshold are 0, so that their columns of the weight
are skipped. Lee et al. 2024, "CATS: Contextually-Aware Thresholding for Sparsity": the activations
of the gate of a feed-forward layer are, so that rows of its other two matrices are skipped.
Thresholds are quantiles on held-out data. Layers and kernels are in `methods.parts.sparse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor, nn

from bench.types import Batch, OneOf, Point, Range, Unsupported, check_fields
from methods.parts.sparse.layers import block_paths, replace_at
from methods.parts.sparse.thresholds import (
    MagnitudeGate,
    ThresholdLinear,
    collect,
    gates,
    quantile,
    replace_feeds,
    use_point,
)
from methods.trunk.block import Block

RANGE = [0.5, 0.25, 0.4, 0.6, 0.7, 0.8, 0.9]  # shares of zeros, the default first
STEP = 0.05  # by which a greedy step raises the sparsity of a block
MOST = 0.95  # of a layer's inputs: what nothing is left of gives no error to compare


@dataclass
class Threshold:
    """A copy of the trained model whose layers leave out the smallest of their inputs.

    `kind`: the `inputs` of every linear layer in the blocks (TEAL) or the `gates` of every
    feed-forward layer (CATS; its activations where it has no gate). `allocation`: every layer has
    the same sparsity, or each block's is spread over its layers where it changes the block's output
    least (`greedy`). An operating point is a sparsity, the share of zeros on the calibration data;
    without `sparsities` they are RANGE. A threshold of 0 is the dense model.

    What is skipped is skipped for single tokens, so that a batch saves as much as a token alone;
    but a product of many tokens reads a weight once for all of them, and sums of rows do not.
    """

    compaction = "nothing: every token reads the rows of the weights that it needs"

    kind: Annotated[str, OneOf("inputs", "gates")] = "inputs"
    allocation: Annotated[str, OneOf("uniform", "greedy")] = "uniform"
    sparsities: list[Annotated[float, Range(ge=0, lt=1)]] = field(default_factory=list)
    train_share = 0.0
    open_is_dense = True

    def __post_init__(self) -> None:
        """Raises ValueError for a sparsity of 1, and where there is nothing to allocate."""
        check_fields(self)
        if self.kind == "gates" and self.allocation == "greedy":
            raise ValueError(
                "allocation=greedy: kind=gates has one threshold per block; choose uniform"
            )

    def convert(self, dense: Any, batches: Iterable[Batch]) -> nn.Module:
        """A copy of the trained model with gates. Raises Unsupported where it has no such layer."""
        model, num_points = deepcopy(dense), len(self._sparsities)
        if self.kind == "inputs":
            paths = block_paths(model, lambda layer: type(layer) is nn.Linear)
            for path in paths:
                dense_layer: Any = model.get_submodule(path)
                replace_at(model, path, ThresholdLinear(dense_layer, path, num_points))
            if not paths:
                raise Unsupported("threshold needs linear layers in the blocks")
            return model
        if not replace_feeds(model, num_points):
            raise Unsupported("threshold kind=gates needs feed-forward layers")
        return model

    def calibrate(self, model: Any, batches: Iterable[Batch]) -> None:
        """Find the thresholds of every sparsity on held-out batches; sets the default point."""
        batches = list(batches)
        seen = collect(model, batches)
        if self.allocation == "uniform":
            for gate, magnitudes in seen.items():
                for i, sparsity in enumerate(self._sparsities):
                    gate.thresholds[i] = quantile(magnitudes, sparsity)
        else:
            for block, state in _block_inputs(model, batches[0]):
                _allocate(block, state, seen, self._sparsities)
        self.set_point(model, self.points()[0])

    def points(self) -> list[Point]:
        """One operating point per sparsity, the default first."""
        return [{"sparsity": sparsity} for sparsity in self._sparsities]

    def set_point(self, model: nn.Module, point: Point) -> None:
        """Use a sparsity's thresholds. Raises ValueError for one that is none of the points."""
        use_point(model, self._sparsities.index(float(point["sparsity"])))

    @property
    def _sparsities(self) -> list[float]:
        return self.sparsities or RANGE


def _block_inputs(model: Any, batch: Batch) -> list[tuple[Block, Any]]:
    """Every block, an encoder's included, with the state that it gets."""
    found: list[tuple[Block, Any]] = []
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    handles = [
        block.register_forward_pre_hook(lambda module, given: found.append((module, given[0])))
        for block in blocks
    ]
    try:
        model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _dense_block(inside: list[MagnitudeGate]) -> Iterator[None]:
    """Thresholds may change inside; afterwards they are 0 again, for the next block's input."""
    try:
        yield
    finally:
        for gate in inside:
            gate.threshold.zero_()


def _allocate(
    block: Block, state: Any, seen: dict[MagnitudeGate, Tensor], sparsities: list[float]
) -> None:
    """Spread each of `sparsities` over the layers of a block (Liu et al. 2024, Algorithm 1).

    A step makes the block STEP sparser by one layer alone, the one whose further zeros change the
    block's output least. A layer of few weights has to become sparser by more for that.
    """
    inside = gates(block)
    sizes = {gate: gate.cost * seen[gate].shape[1] for gate in inside}
    shares, whole = dict.fromkeys(inside, 0.0), sum(sizes.values())
    steps = {gate: STEP * whole / sizes[gate] for gate in inside}
    with _dense_block(inside):
        wanted = block(state).x
        for number in range(round(max(sparsities) / STEP) + 1):
            for i, sparsity in enumerate(sparsities):
                if number == round(sparsity / STEP):
                    for gate in inside:
                        gate.thresholds[i] = gate.threshold
            errors = {}
            for gate in inside:
                before = gate.threshold.clone()
                gate.threshold.copy_(quantile(seen[gate], min(MOST, shares[gate] + steps[gate])))
                if shares[gate] < MOST:
                    errors[gate] = float((block(state).x - wanted).square().mean())
                gate.threshold.copy_(before)
            if not errors:
                continue  # every layer is as sparse as it may be
            best = min(errors, key=errors.__getitem__)
            shares[best] = min(MOST, shares[best] + steps[best])
            best.threshold.copy_(quantile(seen[best], shares[best]))
