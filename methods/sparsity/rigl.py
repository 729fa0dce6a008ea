"""Dynamic sparse training: few weights are stored, and training changes which.

Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners" (RigL). A sparse network starts
from random masks. At regular intervals every layer drops its smallest weights and stores as many
others, which begin at 0: those whose gradient is largest (RigL), or random ones (SET, Mocanu et al.
2018). Top-KAST (Jayakumar et al. 2020) stores the largest weights and lets gradients reach more.
Layers and formats are in `methods.parts.sparse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, distributed, nn

from bench.types import (
    Backbone,
    Batch,
    Criterion,
    OneOf,
    Range,
    TaskSpec,
    Unsupported,
    check_fields,
)
from methods.parts.sparse.layers import block_paths, can_be_sparse, make_sparse, matrices, shapes
from methods.parts.sparse.masks import drop_share, erdos_renyi_kernel, moved, uniform
from methods.parts.sparse.matrix import SparseMatrix

DISTRIBUTIONS = {"erk": erdos_renyi_kernel, "uniform": uniform}


@dataclass
class RigL:
    """A backbone whose blocks store 1 - `sparsity` of their weights; stem and head are dense.

    `growth`: what replaces dropped weights, those with the largest `gradient` or `random` ones;
    `none` keeps the first mask (static); `top_kast` stores the largest weights at every update,
    while gradients reach `reach` times as many. `distribution`: how layers share what is stored.
    `block`: side of the square blocks that are stored, dropped and grown as a whole, equally many
    in every row of blocks; 1 for single weights, with `constant_fan_in` equally many in every row.

    `num_updates` evenly spaced updates until `end` of the training move `drop` of the stored
    weights at first and fewer along half a cosine. `regularisation`: the factor of Top-KAST's loss.

    Training multiplies dense matrices by the mask. After it the matrices are packed: inference
    multiplies stored elements only. A stored weight that was never stored before begins with empty
    moments of the optimiser, because no gradient reaches what is not stored.
    """

    sparsity: Annotated[float, Range(ge=0, lt=1)] = 0.9
    growth: Annotated[str, OneOf("gradient", "random", "none", "top_kast")] = "gradient"
    distribution: Annotated[str, OneOf(*DISTRIBUTIONS)] = "erk"
    block: Annotated[int, Range(1)] = 1
    constant_fan_in: bool = False
    num_updates: Annotated[int, Range(1)] = 20
    end: Annotated[float, Range(gt=0, le=1)] = 0.75
    drop: Annotated[float, Range(gt=0, le=1)] = 0.3
    reach: Annotated[float, Range(ge=1)] = 2.0
    regularisation: Annotated[float, Range(ge=0)] = 1e-4

    def __post_init__(self) -> None:
        """Raises ValueError for a setting out of its range, such as a sparsity of 1."""
        check_fields(self)

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The untrained backbone with sparse blocks. Raises Unsupported where none can be."""
        model = backbone.build(spec)
        paths = block_paths(model, can_be_sparse)
        if not paths:
            raise Unsupported("rigl needs linear layers or plain convolutions in its blocks")
        density = 1 - self.sparsity
        densities = DISTRIBUTIONS[self.distribution](shapes(model, paths), density)
        make_sparse(model, densities, block=self.block, per_row=self.constant_fan_in)
        model.clock = Clock(self.num_updates, self.end)
        for matrix in matrices(model):
            if self.growth == "top_kast":
                matrix.reach(self.reach)
            matrix.clear_outside()
        return model

    def param_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Of Top-KAST, no weight decay on sparse matrices: its loss has its own."""
        sparse = [m.weight for m in matrices(model) if m.weight is not None]
        rest = [p for p in model.parameters() if all(p is not each for each in sparse)]
        decay = {"weight_decay": 0.0} if self.growth == "top_kast" else {}
        return [{"params": sparse, **decay}, {"params": rest}]

    def loss(self, model: Any, batch: Batch, criterion: Criterion, progress: float) -> Tensor:
        """The task's loss; of Top-KAST, plus the squared norm of what is stored or reached."""
        output = model(batch)
        loss = criterion(output, batch) + output.aux_loss
        if self.growth == "top_kast":
            loss = loss + self.regularisation * sum(map(_norm, matrices(model)))
        return loss

    def after_step(self, model: Any, progress: float) -> None:
        """Clear what is not stored; at an update, drop and grow."""
        due = model.clock.tick(progress)
        for matrix in matrices(model):
            if due and self.growth == "top_kast":
                matrix.reach(self.reach)
            elif due and self.growth != "none" and not matrix.is_full:
                self._update(matrix, progress, model.clock)
            matrix.clear_outside()
            # The next step's dense gradient is kept only where it will be read.
            matrix.dense_gradient = None
            matrix.collects = self.growth == "gradient" and model.clock.is_next

    @torch.no_grad()
    def _update(self, matrix: SparseMatrix, progress: float, clock: Clock) -> None:
        assert matrix.weight is not None
        assert matrix.mask is not None
        if self.growth == "random":
            growth = clock.draw(matrix.mask)
        else:
            gradient = matrix.dense_gradient
            gradient = torch.zeros_like(matrix.weight) if gradient is None else gradient
            growth = matrix.scores(_of_all_processes(gradient).abs())
        share = drop_share(progress, self.end, self.drop)
        before = matrix.mask
        matrix.mask = moved(before, matrix.scores(matrix.weight.abs()), growth, share)
        # Only what was not stored begins at 0; a dropped unit that returns keeps its value.
        matrix.weight.mul_(matrix.elements(before))

    def training_flops(self, model: Any, forward: float, dense: float) -> float:
        """FLOPs of training on one sample where kernels skip what is not stored.

        Evci et al. 2020, appendix H: 3 f_S, and of RigL (3 f_S T + 2 f_S + f_D) / (T + 1), because
        one step in T + 1 needs the gradient of all weights. Of Top-KAST 2 f_S and the gradient of
        what is reached.
        """
        if self.growth == "top_kast":
            return 2 * forward + min(dense, self.reach * forward)
        if self.growth != "gradient":
            return 3 * forward
        interval = max(1.0, model.clock.num_steps * self.end / self.num_updates)
        return (3 * forward * interval + 2 * forward + dense) / (interval + 1)

    def calibrate(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """Pack every matrix for inference: stored elements and their places, nothing else."""
        for matrix in matrices(model):
            matrix.export()


class Clock(nn.Module):
    """When masks change: it counts steps, because a step gets its share of training only."""

    seed: Tensor
    num_drawn: Tensor

    def __init__(self, num_updates: int, end: float) -> None:
        super().__init__()
        self.num_updates, self.end = num_updates, end
        self.num_steps = 0
        self.is_next = False  # whether masks change after the next step
        # A buffer: distributed training sends the first process's to all, so that draws agree.
        self.register_buffer("seed", torch.randint(2**31, ()))

    def tick(self, progress: float) -> bool:
        """Count a step that ended at `progress`; returns whether masks change now."""
        self.num_steps += 1
        step = progress / self.num_steps
        self.is_next = self._number(progress + step) > self._number(progress)
        return self._number(progress) > self._number(progress - step)

    def _number(self, progress: float) -> int:
        """Updates until `progress`. None at the end itself, whose share of moved weights is 0."""
        # Rounded: sums of steps miss a multiple by some 1e-16.
        reached = int(round(progress / self.end * self.num_updates, 6))
        return min(reached, self.num_updates - 1)

    def draw(self, like: Tensor) -> Tensor:
        """Random scores [G, M], the same in all processes, others at every call."""
        generator = torch.Generator().manual_seed(int(self.seed))
        self.seed += 1
        return torch.rand(like.shape, generator=generator).to(like.device)


def _of_all_processes(gradient: Tensor) -> Tensor:
    """The sum over the processes that train together: each has seen its share of the batch."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(gradient)
    return gradient


def _norm(matrix: SparseMatrix) -> Tensor:
    """|A|^2 + |B \\ A|^2 / D of what is stored (A) and reached (B), D the density of A.

    Jayakumar et al. 2020, section 2.3.
    """
    assert matrix.weight is not None
    assert matrix.mask is not None
    assert matrix.reached is not None
    squares = matrix.scores(matrix.weight.square())
    density = matrix.num_stored / matrix.weight.numel()
    explored = matrix.reached & ~matrix.mask
    return (squares * matrix.mask).sum() + (squares * explored).sum() / density
