"""Operators with products inside: counted by a closed form, flagged, or written element by element.

Never counted as nothing: 0 FLOPs, no flag and no element would hide a product.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.meters.flops.counter import count

N, D = 8, 16
MM = 2 * N * D * D  # [N, D] times [D, D]
X, W = torch.randn(N, D), torch.randn(D, D)
SPD = W @ W.T + torch.eye(D)

COUNTED: dict[str, tuple[Callable[[], object], int]] = {
    "chain": (lambda: torch.linalg.multi_dot([X, W, W]), 2 * MM),
    "inner": (lambda: torch.inner(X, W), MM),
    "tensordot": (lambda: torch.tensordot(X, W, 1), MM),
    # W^5 = W^4 W: three products of [D, D].
    "power": (lambda: torch.linalg.matrix_power(W, 5), 3 * 2 * D**3),
    "covariance": (lambda: torch.cov(X), 2 * N * N * D),
    "correlation": (lambda: torch.corrcoef(X), 2 * N * N * D),
    "outer sum": (lambda: torch.addr(W, X[0], X[1]), 2 * D * D),
    "vmap": (lambda: torch.vmap(lambda row: W @ row)(X), MM),
    # Kernel 3 over N positions of one sample: N - 2 positions, D to 4 channels.
    "sequence": (
        lambda: torch.conv_tbc(X.view(N, 1, D), torch.randn(3, D, 4), torch.zeros(4)),
        2 * (N - 2) * 3 * D * 4,
    ),
    # Two bags of N rows each, weighted: 2 N rows of D.
    "weighted bags": (
        lambda: F.embedding_bag(
            torch.arange(2 * N).view(2, N),
            W,
            per_sample_weights=torch.ones(2, N),
            mode="sum",
        ),
        2 * 2 * N * D,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_products_inside_are_counted_by_their_closed_form(name: str) -> None:
    """Exact, and complete."""
    work, flops = COUNTED[name]
    with torch.inference_mode():
        assert count(work, strict=True).total == flops


FLAGGED: dict[str, Callable[[], object]] = {
    "fourier": lambda: torch.fft.irfft(torch.fft.rfft(X) * torch.fft.rfft(X)),
    "solve": lambda: torch.linalg.solve(SPD, X.T),
    "triangular": lambda: torch.linalg.solve_triangular(SPD.tril(), X.T, upper=False),
    "cholesky": lambda: torch.linalg.cholesky(SPD),
    "inverse": lambda: torch.linalg.inv(SPD),
    "pseudo-inverse": lambda: torch.linalg.pinv(X),
    "least squares": lambda: torch.linalg.lstsq(W, X.T).solution,
    "exponential": lambda: torch.matrix_exp(W),
    "factors": lambda: torch.linalg.qr(X),
    "reflections": lambda: torch.linalg.householder_product(W, W[0]),
    "reflected": lambda: torch.ormqr(X.T.contiguous(), X.new_ones(N), W),
    "eigenvectors": lambda: torch.linalg.eigh(SPD),
    "determinant": lambda: torch.det(SPD),
    "low rank": lambda: torch.svd_lowrank(X, q=2),
    "fused layer": lambda: torch.ops.mkldnn._linear_pointwise(X, W, None, "none", [], ""),
}


@pytest.mark.parametrize("name", FLAGGED)
def test_products_without_a_closed_form_are_flagged(name: str) -> None:
    """Iterations, factorisations and fused operators of other libraries."""
    with torch.inference_mode():
        assert not count(FLAGGED[name]).complete


WRITTEN: dict[str, tuple[Callable[[], Tensor], int]] = {
    "kron": (lambda: torch.kron(X, W), N * D * D * D),
    "outer": (lambda: torch.outer(X[0], X[1]), D * D),
    "interpolated": (lambda: torch.lerp(X, X, X), N * D),
    "multiplied and added": (lambda: torch.addcmul(X, X, X), N * D),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_products_by_element_are_in_the_elementwise_account(name: str) -> None:
    """At least one element for each multiplication."""
    work, num = WRITTEN[name]
    with torch.inference_mode():
        found = count(work)
    assert found.complete
    assert found.pointwise_elems >= num
