"""Products with a sparse matrix that multiply stored elements only, on operations of torch.

    scattered   CSR: a row of the result is a weighted sum of rows of the input, which is what
                `embedding_bag` computes in one fused kernel. On a CPU it takes about half the time
                of a product with torch's own CSR layout (95 % sparsity, 512 wide, 256 rows)
    blocks      whole blocks, equally many in every row of blocks: inputs are gathered, and one
                batched product is left
    Places      rows of a table that run for single rows of the input: sums of them, and products
                with them

Letters: N outputs, K inputs, n rows of the input, b the size of a block, R rows of blocks, F blocks
in each, H rows of a table, P places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_BAGS = 4  # in which a single row's work is cut, for as many threads


def scattered(values: Tensor, columns: Tensor, starts: Tensor, x: Tensor) -> Tensor:
    """The matrix [N, K] times `x` [K, n] -> [N, n]; CSR.

    `values`, `columns` [stored] row after row, `starts` [N]: where each row begins.
    """
    return F.embedding_bag(columns, x.contiguous(), starts, mode="sum", per_sample_weights=values)


def blocks(values: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """The matrix [R b, K] times `x` [K, n] -> [R b, n].

    `values` [R, b, F b]: the blocks of a row side by side; `columns` [R, F]: which b inputs each
    of them reads.
    """
    num_rows, size, _ = values.shape
    # Rows of the input stay rows: for a single one, the product of a matrix and a vector is the
    # batched kernel's fast case only with this layout.
    parts = x.t().unflatten(1, (-1, size))  # [n, K / b, b]
    read = parts.index_select(1, columns.flatten()).reshape(x.shape[1], num_rows, -1)  # [n, R, F b]
    return torch.bmm(values, read.permute(1, 2, 0)).flatten(0, 1)


def weighted_rows(table: Tensor, weights: Tensor, run: Tensor) -> Tensor:
    """`weights` [n, H] times `table` [H, D] where `run` [n, H], and 0 elsewhere -> [n, D].

    Only rows that run for a row of `weights` are read for it, in place: a gather would copy them
    first, and at half of the rows takes about twice as long (`make kernels`).
    """
    places = Places.of(run)
    if places is None:  # nothing runs, and nothing is called on nothing
        return table.new_zeros(len(weights), table.shape[1])
    return places.sum_rows(table, weights[run].to(table.dtype))


@dataclass(frozen=True)
class Places:
    """Where a mask [n, H] is true, row after row: `columns` [P], `starts` [n], `owner` [P]."""

    columns: Tensor
    starts: Tensor
    owner: Tensor

    @classmethod
    def of(cls, run: Tensor) -> Places | None:
        """The places of `run`; None where nothing runs."""
        owner, columns = run.nonzero().unbind(1)
        if len(columns) == 0:
            return None
        counts = run.sum(1)
        return cls(columns, counts.cumsum(0) - counts, owner)

    def sum_rows(self, table: Tensor, values: Tensor) -> Tensor:
        """Of each of the n rows the sum of `table`'s rows [H, D], weighted by `values` [P]."""
        starts = self.starts
        if len(starts) == 1:
            # One bag is one thread's work: several share a single row's, and are added up.
            starts = torch.arange(NUM_BAGS, device=starts.device) * (len(values) // NUM_BAGS)
        summed = F.embedding_bag(self.columns, table, starts, mode="sum", per_sample_weights=values)
        return summed.sum(0, keepdim=True) if len(self.starts) == 1 else summed

    def products(self, x: Tensor, table: Tensor) -> Tensor:
        """At each place the product of its row of `x` [n, D] and of `table` [H, D], [P]."""
        found: Tensor = _Products.apply(x, table, self.columns, self.starts, self.owner)
        return found


class _Products(torch.autograd.Function):
    """Products of chosen pairs of rows, in the kernel of `embedding_bag`'s gradient.

    It reads the rows in place, which no forward operation of torch does.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, columns: Tensor, starts: Tensor, owner: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, table, columns, starts, owner)
        compute = torch.ops.aten._embedding_bag_per_sample_weights_backward
        found: Tensor = compute(x, table, columns, starts, owner, 0)  # 0: the mode "sum"
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, table, columns, starts, owner = ctx.saved_tensors
        of_x = F.embedding_bag(columns, table, starts, mode="sum", per_sample_weights=gradient)
        pairs = x.index_select(0, owner) * gradient[:, None]
        of_table = torch.zeros_like(table).index_add(0, columns, pairs)
        return of_x, of_table, None, None, None
