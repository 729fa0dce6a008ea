"""Layers that use a part of another layer's weights: the first channels, [:out, :in].

Yu et al. 2019, Slimmable Neural Networks. The weights belong to the full layer, which the sliced
one does not register: they are trained, moved and stored once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Kept:
    """What is kept of an axis: the first `size` of each of `num_groups` equal parts."""

    size: int
    num_groups: int = 1

    def __len__(self) -> int:
        return self.size * self.num_groups

    def cut(self, tensor: Tensor, axis: int) -> Tensor:
        """The kept part of `tensor` along `axis`."""
        if tensor.shape[axis] == len(self):
            return tensor
        # Slices, not narrow(): in inference mode that fails under torch's dispatch modes.
        before = (slice(None),) * axis
        if self.num_groups == 1:
            return tensor[(*before, slice(self.size))]
        parts = tensor.unflatten(axis, (self.num_groups, -1))
        kept = parts[(*before, slice(None), slice(self.size))]
        return kept.flatten(axis, axis + 1)


class _Sliced(nn.Module):
    """What sliced layers share: weight and bias are parts of those of another layer."""

    def _slice(self, full: Any, rows: Kept, columns: Kept | None) -> None:
        """Take over the settings of `full`; its parameters stay its own."""
        own = vars(nn.Module()).keys()
        self.__dict__.update({k: v for k, v in vars(full).items() if k not in own})
        # In a tuple: as a child, the full layer would be stored and counted again.
        self._full, self._rows, self._columns = (full,), rows, columns

    # Cut in every call, into a view where the axis has one group. Contiguous copies were no faster
    # in batches, and 3 to 6 % in ResNet-50 at batch 1: too little to risk weights of yesterday.
    @property
    def weight(self) -> Tensor:
        """The part of the full layer's weight."""
        part = self._rows.cut(self._full[0].weight, 0)
        return part if self._columns is None else self._columns.cut(part, 1)

    @property
    def bias(self) -> Tensor | None:
        """The part of the full layer's bias, if it has one."""
        bias = self._full[0].bias
        return None if bias is None else self._rows.cut(bias, 0)


class SlicedLinear(_Sliced, nn.Linear):  # type: ignore[misc, override]
    """`full` for the kept inputs (`columns`) and outputs (`rows`)."""

    def __init__(self, full: nn.Linear, rows: Kept, columns: Kept) -> None:
        nn.Module.__init__(self)
        self._slice(full, rows, columns)
        self.in_features, self.out_features = len(columns), len(rows)


class SlicedConv2d(_Sliced, nn.Conv2d):  # type: ignore[override]
    """`full`, dense or depthwise, for the kept inputs (`columns`) and outputs (`rows`).

    Raises ValueError for other groups: their first channels do not read the first inputs.
    """

    def __init__(self, full: nn.Conv2d, rows: Kept, columns: Kept) -> None:
        nn.Module.__init__(self)
        depthwise = full.groups == full.in_channels == full.out_channels
        if full.groups > 1 and not depthwise:
            raise ValueError(f"a convolution in {full.groups} groups cannot be sliced")
        # A depthwise kernel has one input channel, which is never cut.
        self._slice(full, rows, None if depthwise else columns)
        self.in_channels, self.out_channels = len(columns), len(rows)
        self.groups = len(columns) if depthwise else 1
