"""One matrix product for rows that are sorted by group, with a weight for each group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def can_group(x: Tensor, *weights: Tensor) -> bool:
    """Whether torch's grouped GEMM takes rows like `x` and each of `weights` [G, in, out].

    It takes fp32, bf16 or fp16 and rows whose length is a multiple of 16 bytes; on a GPU with
    compute capability 8.0 at least; under torch.compile only bf16 (torch 2.13).
    """
    dtype = _dtype(x)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if torch.compiler.is_compiling() and dtype != torch.bfloat16:
        return False
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0):
        return False
    multiple = 16 // dtype.itemsize
    return all(not (w.shape[1] % multiple or w.shape[2] % multiple) for w in weights)


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x_p W_g for the group g of each row: sorted `x` [P, in], `weight` [G, in, out] -> [P, out].

    `ends` [G] int32: where each group's rows end, the last at P > 0.
    """
    dtype = _dtype(x)  # torch's op ignores autocast: without this it would compute in fp32
    out = F.grouped_mm(x.to(dtype), weight.to(dtype), offs=ends)
    if out.requires_grad:  # its backward rejects expanded gradients such as sum's
        out.register_hook(torch.Tensor.contiguous)
    return out


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype that a product of `x` is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
