"""Linear layers and convolutions with a sparse weight matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.parts.sparse.masks import Shape
from methods.parts.sparse.matrix import SparseMatrix
from methods.trunk.block import Block


class SparseLinear(nn.Module):
    """W x + b with a sparse W, [..., K] -> [..., N]."""

    def __init__(self, dense: nn.Linear, density: float, **settings: Any) -> None:
        super().__init__()
        self.matrix = SparseMatrix(dense.weight, density, **settings)
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x, 0, self.matrix.num_rows)

    def rows(self, x: Tensor, begin: int, end: int) -> Tensor:
        """Outputs `begin` to `end` alone, [..., K] -> [..., end - begin]."""
        bias = None if self.bias is None else self.bias[begin:end]
        if self.training:
            return F.linear(x, self.matrix.dense()[begin:end], bias)
        columns = x.flatten(0, -2).t()  # [K, n]: the product reads one input of all rows at once
        y = self.matrix.product(columns, begin, end).t()
        y = y if bias is None else y + bias
        return y.unflatten(0, x.shape[:-1])


class SparseConv2d(nn.Module):
    """A convolution with a sparse kernel: im2col times the sparse matrix [outputs, C kh kw]."""

    def __init__(self, dense: nn.Conv2d, density: float, **settings: Any) -> None:
        super().__init__()
        self.matrix = SparseMatrix(dense.weight.flatten(1), density, **settings)
        self.bias = dense.bias
        assert not isinstance(dense.padding, str)  # see `can_be_sparse`
        self.kernel, self.stride, self.padding = dense.kernel_size, dense.stride, dense.padding

    def forward(self, x: Tensor) -> Tensor:  # [B, C, height, width]
        if self.training:
            weight = self.matrix.dense().view(-1, x.shape[1], *self.kernel)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)
        y = self.matrix.product(self._columns(x))  # [N, B height width]
        y = y if self.bias is None else y + self.bias[:, None]
        y = y.view(-1, len(x), *self._size(x)).transpose(0, 1)
        return y.contiguous(memory_format=torch.channels_last)  # as the dense layers leave it

    def _columns(self, x: Tensor) -> Tensor:
        """What every place of the output reads, [C kh kw, B height width]."""
        if prod(self.kernel) == 1 and not any(self.padding):  # nothing overlaps
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
            return x.transpose(0, 1).flatten(1)
        patches = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)
        return patches.transpose(0, 1).flatten(1)

    def _size(self, x: Tensor) -> list[int]:
        """Height and width of the output."""
        sizes = zip(x.shape[2:], self.kernel, self.stride, self.padding, strict=True)
        return [(size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes]


def can_be_sparse(layer: nn.Module) -> bool:
    """Whether it is a linear layer or a plain convolution.

    Depthwise and grouped convolutions stay dense: they hold few weights, and a sparse matrix has
    no groups.
    """
    if type(layer) is nn.Conv2d:
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return plain and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def matrices(model: nn.Module) -> Iterator[SparseMatrix]:
    """The sparse matrices of a model, in order."""
    return (module for module in model.modules() if isinstance(module, SparseMatrix))


def block_paths(model: Any, accepts: Callable[[nn.Module], bool]) -> list[str]:
    """Paths of the layers in the blocks that `accepts` takes, those of an encoder included."""
    inside = [block for block in model.modules() if isinstance(block, Block)]
    inside += list(model.blocks)
    found = {layer for block in inside for layer in block.modules() if accepts(layer)}
    return [path for path, layer in model.named_modules() if layer in found]


def replace_at(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` in the place of the module at `path`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def make_sparse(model: nn.Module, densities: dict[str, float], **settings: Any) -> None:
    """Replace the layers that `densities` names, in place."""
    for path, density in densities.items():
        old = model.get_submodule(path)
        kind = SparseLinear if isinstance(old, nn.Linear) else SparseConv2d
        replace_at(model, path, kind(old, density, **settings))  # type: ignore[arg-type]


def shapes(model: nn.Module, paths: list[str]) -> dict[str, Shape]:
    """Sizes of the weights of the layers at `paths`."""
    layers: dict[str, Any] = {path: model.get_submodule(path) for path in paths}
    return {path: tuple(layer.weight.shape) for path, layer in layers.items()}
