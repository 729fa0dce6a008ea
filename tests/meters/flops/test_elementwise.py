"""Elementwise work beyond which products may be hidden in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.meters.flops.counter import count
from bench.meters.flops.formulas.elementwise import may_hide_products

N, M, K = 5, 6, 7  # x [N, K] times w [M, K], transposed


def spread(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [N, M, K], without copying anything."""
    return x[:, None].expand(N, M, K), w[None].expand(N, M, K)


def by_grid(x: Tensor, w: Tensor) -> Tensor:
    """Linear interpolation between 0 and x at the place w in [0, 1] is x times w."""
    pair = torch.stack([torch.zeros(N, M, K), spread(x, w)[0]], -1)  # [N, M, K, 2]
    places = torch.stack([2 * w.flatten() - 1, torch.zeros(M * K)], -1)  # [M * K, 2]
    image = pair.reshape(N * M * K, 1, 1, 2)
    grid = places.repeat(N, 1).view(N * M * K, 1, 1, 2)
    return F.grid_sample(image, grid, align_corners=True).view(N, M, K).sum(-1)


# Ways to multiply without `mul` and without a product: each writes one element per MAC, at least.
BY_HAND: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda x, w: (x[:, None] * w).sum(-1),
    "prod": lambda x, w: torch.stack(spread(x, w), -1).prod(-1).sum(-1),
    "cumprod": lambda x, w: torch.stack(spread(x, w), -1).cumprod(-1)[..., 1].sum(-1),
    "layer_norm": lambda x, w: F.layer_norm(spread(x, w)[0], (M, K), w).sum(-1),
    "rms_norm": lambda x, w: F.rms_norm(spread(x, w)[0], (M, K), w).sum(-1),
    "batch_norm": lambda x, w: (
        F.batch_norm(
            spread(x, w)[0].reshape(N, M * K), torch.zeros(M * K), torch.ones(M * K), w.flatten()
        )
        .view(N, M, K)
        .sum(-1)
    ),
    "group_norm": lambda x, w: F.group_norm(
        spread(x, w)[0].reshape(N, M * K), 1, w.flatten(), torch.zeros(M * K)
    ),
    "repeat": lambda x, w: x.repeat(1, M).view(N, M, K).logsumexp(-1),
    "polar": lambda x, w: torch.polar(*spread(x, w.clamp(-1, 1).acos())).real.sum(-1),
    "scatter_reduce": lambda x, w: (
        spread(x, w)[0]
        .reshape(-1)
        .scatter_reduce(0, torch.arange(N * M * K), spread(x, w)[1].reshape(-1), "prod")
        .view(N, M, K)
        .sum(-1)
    ),
    "index_reduce": lambda x, w: (
        spread(x, w)[0]
        .reshape(-1)
        .index_reduce(0, torch.arange(N * M * K), spread(x, w)[1].reshape(-1), "prod")
        .view(N, M, K)
        .sum(-1)
    ),
    # x w = (x^2 + w^2 - (x - w)^2) / 2, and the variance of a pair is (x - w)^2 / 2
    "var": lambda x, w: (
        ((x**2).sum(-1)[:, None] + (w**2).sum(-1) - 2 * torch.stack(spread(x, w)).var(0).sum(-1))
        / 2
    ),
    "norm": lambda x, w: torch.stack(spread(x, w)).norm(dim=0).square().sum(-1),
    "grid_sample": by_grid,
    "lerp": lambda x, w: torch.lerp(torch.zeros(()), *spread(x, w)).sum(-1),
    "addcmul": lambda x, w: torch.zeros(N, M, K).addcmul(*spread(x, w)).sum(-1),
    "dequantise": lambda x, w: torch.fake_quantize_per_channel_affine(
        spread(x, w)[0].reshape(N, M * K),
        w.flatten().abs() + 0.1,
        torch.zeros(M * K, dtype=torch.int32),
        1,
        -128,
        127,
    ),
}


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("name", BY_HAND)
def test_every_way_to_multiply_by_hand_writes_elements(name: str) -> None:
    """The account grows by a product's MACs, whichever op computes them one by one."""
    with torch.no_grad():
        counted = count(BY_HAND[name], torch.rand(N, K), torch.rand(M, K))
    assert counted.pointwise_elems >= N * M * K


def test_moving_and_choosing_rows_writes_none() -> None:
    """Gathers, scatters, concatenations, sorts and sums are what routing is made of."""

    def route(x: Tensor) -> Tensor:
        rows = torch.cat([x, x[x.sum(-1).argsort()]]).index_select(0, torch.arange(N))
        out = torch.zeros(N, K).index_add_(0, torch.arange(N), rows)
        out[torch.arange(2)] = rows[:2]
        return out.gather(1, torch.zeros(N, 1, dtype=torch.long)).cumsum(0).contiguous()

    assert count(route, torch.rand(N, K), strict=True).pointwise_elems == 0


def test_a_product_written_by_hand_is_found() -> None:
    """A dense model of 1e6 FLOPs and 1e3 elements; half of its products by hand write 250,000."""
    assert may_hide_products(1e3 + 250_000, 1e3, 1e6, 0.5e6)


def test_gating_and_moving_rows_is_no_product() -> None:
    """Four times the dense model's elements are allowed, plus 2.5 % of its FLOPs."""
    assert not may_hide_products(4e3 + 24_000, 1e3, 1e6, 0.5e6)
    assert may_hide_products(4e3 + 26_000, 1e3, 1e6, 0.5e6)


def test_more_counted_work_has_more_activations() -> None:
    """All of eight experts: eight times the products, all counted, and their activations."""
    assert not may_hide_products(30e3 + 26_000, 1e3, 1e6, 8e6)
    assert may_hide_products(32e3 + 26_000, 1e3, 1e6, 8e6)
