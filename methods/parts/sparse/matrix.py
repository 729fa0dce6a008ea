"""One sparse weight matrix: dense under a mask while it is trained, packed for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.parts.sparse import products
from methods.parts.sparse.masks import first_mask, largest, num_stored_units


class SparseMatrix(nn.Module):
    """A weight matrix [N, K] of which a constant number of blocks of `block` x `block` is stored.

    Training multiplies the dense `weight` by the mask. `export` replaces it by `values` and their
    places, which inference uses from then on, and training too, with the mask as it is. Before
    that, a pass in inference packs for itself. With `per_row`, and with blocks always, every row
    (of blocks) stores equally many: only then does one batched product serve them all.

    Raises ValueError where blocks do not divide the matrix.
    """

    mask: Tensor | None
    reached: Tensor | None
    columns: Tensor
    starts: Tensor

    def __init__(self, weight: Tensor, density: float, *, block: int = 1, per_row: bool = False):
        super().__init__()
        rows, inputs = weight.shape
        if rows % block or inputs % block:
            raise ValueError(
                f"a {rows} x {inputs} matrix does not fall into blocks of {block} x {block}: "
                "choose a block that divides both, such as 1"
            )
        self.num_rows, self.num_inputs, self.block = rows, inputs, block
        self.per_row = per_row or block > 1
        self.grid = rows // block, inputs // block  # units in a column, and in a row
        num_groups = self.grid[0] if self.per_row else 1
        self.weight: nn.Parameter | None = nn.Parameter(weight.detach().clone())  # [N, K]
        mask = first_mask(num_groups, self.grid[0] * self.grid[1] // num_groups, density)
        self.num_units = num_groups * num_stored_units(mask.shape[1], density)
        self.register_buffer("mask", mask)  # [G, M]
        # What gradients reach, if that is more than what is stored (Top-KAST).
        self.register_buffer("reached", None)
        self.collects = False  # whether backward passes leave the dense gradient
        self.dense_gradient: Tensor | None = None  # [N, K]

    @property
    def num_stored(self) -> int:
        """Stored elements."""
        return self.num_units * self.block**2

    @property
    def is_full(self) -> bool:
        """Whether every element is stored: such a matrix has nothing to drop or grow."""
        return self.num_stored == self.num_rows * self.num_inputs

    def scores(self, elements: Tensor) -> Tensor:
        """Of each unit the sum over its `elements` [N, K], in the mask's shape [G, M]."""
        size = self.block
        units = elements.unflatten(0, (-1, size)).unflatten(2, (-1, size)).sum((1, 3))
        return units.reshape(self.grid[0] if self.per_row else 1, -1)

    def elements(self, mask: Tensor) -> Tensor:
        """A mask of units [G, M] as one of elements, bool [N, K]."""
        units = mask.view(self.grid)
        return units.repeat_interleave(self.block, 0).repeat_interleave(self.block, 1)

    @torch.no_grad()
    def clear_outside(self) -> None:
        """Set weights to 0 where none is stored: the optimiser's momentum may have moved them.

        Top-KAST keeps them, and compares their magnitudes.
        """
        if self.weight is not None and self.mask is not None and self.reached is None:
            self.weight.mul_(self.elements(self.mask))

    @torch.no_grad()
    def reach(self, factor: float) -> None:
        """Store the largest weights, and let gradients reach `factor` times as many (Top-KAST)."""
        assert self.weight is not None
        assert self.mask is not None
        scores = self.scores(self.weight.abs())
        num_stored = self.num_units // len(scores)
        self.mask = largest(scores, num_stored)
        num_reached = min(scores.shape[1], round(factor * num_stored))
        self.reached = largest(scores, num_reached)

    def dense(self) -> Tensor:
        """The matrix with zeros where nothing is stored, [N, K]; gradients reach what they may."""
        if self.weight is None:
            return self._unpacked()
        assert self.mask is not None
        stored = self.elements(self.mask)
        masked = self.weight * stored
        if self.reached is not None:
            # Forward the stored weights alone; backward, what is reached as well.
            reached = self.weight * self.elements(self.reached)
            masked = reached + (masked - reached).detach()
        if self.collects and masked.requires_grad:
            masked.register_hook(self._collect)
        return masked

    def _collect(self, gradient: Tensor) -> None:
        # A matrix that is used twice in a pass has the sum, as `.grad` would.
        earlier = self.dense_gradient
        self.dense_gradient = gradient.detach() if earlier is None else earlier + gradient.detach()

    def product(self, x: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
        """Rows `begin` to `end` times `x` [K, n] -> [rows, n]; stored elements only."""
        values, columns, starts = self._packed()
        x = x.to(values.dtype)  # under autocast: one dtype in one kernel
        end = self.num_rows if end is None else end
        if self.block > 1:
            rows = slice(begin // self.block, end // self.block)
            return products.blocks(values[rows], columns[rows], x)
        if (begin, end) != (0, self.num_rows):
            last = int(starts[end]) if end < self.num_rows else len(values)
            part = slice(int(starts[begin]), last)
            values, columns = values[part], columns[part]
            starts = starts[begin:end] - starts[begin]
        return products.scattered(values, columns, starts, x)

    def _packed(self) -> tuple[Tensor, Tensor, Tensor]:
        return (self.values, self.columns, self.starts) if self.weight is None else self._pack()

    def _pack(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values and places of what is stored, row after row.

        Their number is a constant, so that this also works on the meta device.
        """
        assert self.weight is not None
        assert self.mask is not None
        units = self.mask.view(self.grid).flatten()
        stored = units.float().topk(self.num_units).indices.sort().values  # places of units
        columns = (stored % self.grid[1]).int()
        if self.block > 1:
            size, rows = self.block, self.grid[0]
            pieces = self.weight.unflatten(0, (-1, size)).unflatten(2, (-1, size)).transpose(1, 2)
            values = pieces.flatten(0, 1).index_select(0, stored)  # [R F, b, b]
            values = values.view(rows, -1, size, size).transpose(1, 2).flatten(2)  # [R, b, F b]
            return values, columns.view(rows, -1), columns[:0]
        ends = units.view(self.grid).sum(1).cumsum(0)  # [N]
        starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]]).int()
        return self.weight.flatten().index_select(0, stored), columns, starts

    def _unpacked(self) -> Tensor:
        if self.block > 1:
            size, (rows, across) = self.block, self.grid
            pieces = self.values.unflatten(2, (-1, size)).transpose(1, 2)  # [R, F, b, b]
            where = torch.arange(rows, device=pieces.device)[:, None] * across + self.columns
            grid = pieces.new_zeros(rows * across, size, size)
            grid = grid.index_copy(0, where.flatten(), pieces.flatten(0, 1))
            return grid.view(rows, across, size, size).transpose(1, 2).reshape(rows * size, -1)
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([len(self.values)])])
        every = torch.arange(self.num_rows, device=ends.device)
        owner = every.repeat_interleave((ends - self.starts).long(), output_size=len(self.values))
        flat = self.values.new_zeros(self.num_rows * self.num_inputs)
        flat = flat.index_copy(0, owner * self.num_inputs + self.columns, self.values)
        return flat.view(self.num_rows, self.num_inputs)

    @torch.no_grad()
    def export(self) -> None:
        """Keep what is stored and its places only; the dense matrix and the mask are given up."""
        if self.weight is not None:
            self._adopt(*self._pack())

    def _adopt(self, values: Tensor, columns: Tensor, starts: Tensor) -> None:
        self.weight, self.mask, self.reached, self.dense_gradient = None, None, None, None
        self.values = nn.Parameter(values.detach().clone())
        self.register_buffer("columns", columns)
        self.register_buffer("starts", starts)

    def _load_from_state_dict(self, state: Any, prefix: str, *others: Any) -> None:
        # A state that was saved after `export` makes an untrained matrix an exported one.
        names = [f"{prefix}{name}" for name in ("values", "columns", "starts")]
        if self.weight is not None and names[0] in state:
            self._adopt(*(state[name].to(self.weight.device) for name in names))
        super()._load_from_state_dict(state, prefix, *others)
