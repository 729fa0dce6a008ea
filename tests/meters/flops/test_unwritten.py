"""Memory that no dispatched op wrote: read or returned, it gives a hidden kernel away."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.meters.flops.counter import MissingFormulaError, count

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.fbgemm:UserWarning",
    "ignore:fbgemm:UserWarning",
    "ignore:torch.ops:UserWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
)

r = torch.randn
X, WEIGHT, BIAS = r(4, 16), r(8, 16), r(8)


def half_precision() -> Callable[[], Tensor]:
    packed = torch.fbgemm_pack_gemm_matrix_fp16(WEIGHT)
    return lambda: torch.fbgemm_linear_fp16_weight(X, packed, BIAS)


def eight_bits() -> Callable[[], Tensor]:
    weight, offsets, scale, zero = torch.fbgemm_linear_quantize_weight(WEIGHT)
    packed = torch.fbgemm_pack_quantized_matrix(weight)
    return lambda: torch.fbgemm_linear_int8_weight_fp32_activation(
        X, weight, packed, offsets, scale, zero, BIAS
    )


def by_numpy() -> Callable[[], Tensor]:
    """A product that NumPy writes into torch's memory."""

    def run() -> Tensor:
        out = torch.empty(4, 8)
        out.numpy()[:] = X.numpy() @ WEIGHT.numpy().T
        return out + BIAS

    return run


def by_address() -> Callable[[], Tensor]:
    """A copy by a C function: what it copies could be computed anywhere."""

    def run() -> Tensor:
        out = torch.empty_like(X)
        ctypes.memmove(out.data_ptr(), X.data_ptr(), X.numel() * 4)
        return out

    return run


HIDDEN = {"fp16": half_precision, "int8": eight_bits, "NumPy": by_numpy, "address": by_address}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", HIDDEN)
def test_what_was_written_unseen_is_flagged(name: str, mode: Any) -> None:
    """Packed products of fbgemm, and any other writer that torch did not dispatch."""
    run = HIDDEN[name]()
    with mode():
        found = count(run)
        assert not found.complete, name
        assert all(
            flag.startswith(("outside::", "aten::fbgemm")) for flag in found.ops_without_formula
        )
        with pytest.raises(MissingFormulaError):
            count(run, strict=True)


def test_the_remedy_names_the_reader() -> None:
    """An author finds the line by the first op that uses the result."""
    with torch.no_grad(), pytest.raises(MissingFormulaError, match=r"aten::add.* dispatcher"):
        count(by_numpy(), strict=True)


def allocated() -> dict[str, Callable[[], Any]]:
    """Ways of using memory that was only allocated, all of them in dispatched ops."""
    cache = torch.empty(2, 16, 8)

    def cached() -> Tensor:
        cache[:, :4] = X.view(2, 4, 8)
        return cache[:, :4] * 2

    def rows() -> Tensor:
        out = X.new_empty(4, 16)
        out[torch.tensor([0, 2])] = X[:2]
        out[torch.tensor([1, 3])] = X[2:]
        return out @ WEIGHT.T

    return {
        "filled": lambda: torch.empty(3).fill_(1.0) + 1,
        "drawn": lambda: torch.empty(3).uniform_() + 1,
        "copied": lambda: torch.empty(4, 16).copy_(X) + 1,
        "out=": lambda: torch.mm(X, WEIGHT.T, out=torch.empty(4, 8)) + BIAS,
        "foreach": lambda: torch._foreach_copy_([torch.empty(4, 16)], [X])[0] + 1,
        "rows": rows,
        "rows in new memory": lambda: (
            torch.empty(4, 16).index_copy(0, torch.arange(4), X) @ WEIGHT.T
        ),
        "a permutation turned round": lambda: torch.empty(4, dtype=torch.long).scatter(
            0, torch.tensor([2, 0, 1, 3]), torch.arange(4)
        ),
        "a cache that is older": cached,
        "ignored where beta is 0": lambda: torch.baddbmm(
            torch.empty(1, 4, 8), X[None], WEIGHT.T[None], beta=0
        ),
        "only its shape is used": lambda: torch.zeros_like(torch.empty(3)) + 1,
        "without elements": lambda: torch.cat([torch.empty(0), X.flatten()]),
        "dropout": lambda: F.dropout(X, 0.5),
        "reshaped": lambda: X.clone().resize_(8, 8) + 1,
        "initialised": lambda: nn.Linear(16, 8)(X),
    }


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", allocated())
def test_memory_that_ops_fill_is_nothing_to_flag(name: str, mode: Any) -> None:
    """Buffers, caches, dropout and unused operands are complete counts."""
    with mode():
        count(allocated()[name], strict=True)


def test_memory_that_is_gone_is_forgotten() -> None:
    """Thousands of short allocations, one address after the other, are no flag and no leak."""

    def run() -> Tensor:
        for _ in range(500):
            torch.empty(7)
        return torch.tensor([1.0, 2.0]) + 1

    assert count(run, strict=True).total == 0
