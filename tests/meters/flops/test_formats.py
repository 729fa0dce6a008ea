"""Number formats: the narrowest operand of a product names its FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.meters.flops.counter import count
from bench.meters.flops.formats import bits, narrower

r = torch.randn
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")


def cast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return nn.Linear(8, 4)(x)


PRODUCTS: dict[str, tuple[Callable[[], Any], str]] = {
    "float32": (lambda: r(3, 8) @ r(8, 4), "float32"),
    "float64": (lambda: r(3, 8).double() @ r(8, 4).double(), "float64"),
    "bfloat16": (lambda: r(3, 8).bfloat16() @ r(8, 4).bfloat16(), "bfloat16"),
    "autocast": (lambda: cast(r(3, 8)), "bfloat16"),
    "convolution": (lambda: F.conv1d(r(1, 2, 9).half(), r(4, 2, 3).half()), "float16"),
    "attention": (
        lambda: F.scaled_dot_product_attention(*[r(1, 2, 5, 4).bfloat16()] * 3),
        "bfloat16",
    ),
    "complex": (lambda: r(3, 8, dtype=torch.cfloat) @ r(8, 4, dtype=torch.cfloat), "complex64"),
    "integers": (
        lambda: torch._int_mm(torch.ones(32, 16).char(), torch.ones(16, 8).char()),
        "int8",
    ),
    "weighted bag": (
        lambda: F.embedding_bag(
            torch.arange(6).view(2, 3), r(9, 4), mode="sum", per_sample_weights=r(2, 3)
        ),
        "float32",
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_has_the_format_of_its_operands(name: str) -> None:
    """All FLOPs of one product are in one format; its bits are known."""
    run, wanted = PRODUCTS[name]
    with torch.no_grad():
        counted = count(run, strict=True)
    assert counted.by_format == {wanted: counted.total}
    assert bits(wanted) > 0


def test_packed_weights_are_a_format_of_their_own() -> None:
    """Eight or sixteen bits inside an object of a C++ class."""
    weight = torch.quantize_per_tensor(r(4, 8), 0.1, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    counted = count(torch.ops.quantized.linear_dynamic, r(3, 8), packed, strict=True)
    assert counted.by_format == {"packed": counted.total}


@pytest.fixture
def medium() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_rounding_inside_the_library_is_another_format(medium: None) -> None:
    """A setting of torch rounds float32 products to bfloat16."""
    assert list(count(torch.mm, r(3, 4), r(4, 5)).by_format) == ["float32 rounded to bfloat16"]


def test_only_fewer_bits_than_the_reference_are_named() -> None:
    """A quarter in bfloat16 beside float32; beside bfloat16, float16 and wider are no less."""
    own = {"float32": 75, "bfloat16": 25}
    assert narrower(own, {"float32": 10}) == {"bfloat16": 0.25}
    assert narrower(own, {"bfloat16": 10, "float32": 10}) == {}
    assert narrower({"float16": 9, "float64": 1, "int8": 0}, {"bfloat16": 10}) == {}
    assert narrower({"packed": 5, "complex64": 5}, {"float32": 1}) == {"packed": 0.5}
    assert narrower({}, {"float32": 1}) == {}
