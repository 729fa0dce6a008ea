"""Stray kernels among a profiler's events, constructed as a GPU would record them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from bench.meters.flops.stray_kernels import count_stray_kernels, stray_kernels


def op(name: str, *kernels: str) -> SimpleNamespace:
    """A host event with the kernels that the profiler attached to it."""
    return SimpleNamespace(
        name=name,
        device_type=DeviceType.CPU,
        kernels=[SimpleNamespace(name=kernel) for kernel in kernels],
    )


def kernel(name: str, is_user_annotation: bool = False) -> SimpleNamespace:
    """An event of the device itself."""
    where = DeviceType.CUDA
    return SimpleNamespace(
        name=name, device_type=where, kernels=[], is_user_annotation=is_user_annotation
    )


def test_a_kernel_belongs_to_its_operation() -> None:
    """aten::mm launched both products; copies and marked ranges are no kernels."""
    events = [
        op("aten::mm", "gemm"),
        op("aten::mm", "gemm"),
        kernel("gemm"),
        kernel("gemm"),
        kernel("Memcpy HtoD"),
        kernel("my range", is_user_annotation=True),
    ]
    assert stray_kernels(events) == {}


def test_a_bare_launch_is_a_stray_kernel() -> None:
    """The third product, and a Triton kernel inside only a launch and a Python range."""
    events = [
        op("aten::mm", "gemm", "gemm"),
        op("cuLaunchKernel", "my_triton_kernel"),
        op("my range", "my_triton_kernel"),
        *(kernel("gemm") for _ in range(3)),
        kernel("my_triton_kernel"),
    ]
    assert stray_kernels(events) == {"gemm": 1, "my_triton_kernel": 1}


def test_a_custom_operations_kernels_are_its_own() -> None:
    """Whatever its library: the ledger flags the operation, or has its formula."""
    assert stray_kernels([op("mylib::experts", "fused"), kernel("fused")]) == {}


@pytest.mark.gpu
def test_torchs_own_kernels_all_have_operations() -> None:
    """Products, elementwise work and attention on a real GPU."""
    x = torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.bfloat16)

    def model() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x).relu() @ x

    model()
    assert count_stray_kernels(model) == {}
