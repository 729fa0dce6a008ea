"""Forward and backward together: each gradient of a product costs as much as the product.

F is the forward pass. A layer whose input needs no gradient costs 2 F, any other 3 F.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench import routing
from bench.meters.flops.counter import BACKWARD, FlopCount, count

r = torch.randn


def step(fn: Callable[..., Tensor], *inputs: Tensor) -> FlopCount:
    """Count one forward and backward pass; the gradient is a matrix of its own, not expanded."""

    def run() -> None:
        out = fn(*inputs)
        out.backward(torch.ones_like(out))

    return count(run, strict=True)


def needs_grad(*shape: int) -> Tensor:
    return r(*shape, requires_grad=True)


def test_mlp_step_is_three_forwards_less_the_first_input_gradient() -> None:
    """An MLP's step costs 3 F, less the gradient that the data do not need."""
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    first, second = 2 * 8 * 64 * 128, 2 * 8 * 128 * 10
    counted = step(mlp, r(8, 64))
    assert counted.total == 2 * first + 3 * second
    assert counted.by_region == {"backbone": first + second, BACKWARD: first + 2 * second}


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolution_step_is_three_forwards(groups: int, transposed: bool) -> None:
    """Both gradients of a grouped convolution are grouped too."""
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(8, 8, 3, groups=groups)
    # 8 x 8 inputs: 6 x 6 outputs, or 64 inputs that spread; each with 8 / groups channels
    forward = 2 * 2 * 8 * (64 if transposed else 36) * 9 * (8 // groups)
    assert step(layer, needs_grad(2, 8, 8, 8)).total == 3 * forward
    assert step(layer, r(2, 8, 8, 8)).total == 2 * forward  # the data need no gradient


@pytest.mark.parametrize("is_causal", [False, True])
def test_fused_attention_step(is_causal: bool) -> None:
    """Fused attention's backward pass recomputes the scores: 2.5 F, and 1 F forward."""
    q, k, v = (needs_grad(2, 4, 32, 16) for _ in range(3))
    forward = 2 * 2 * 2 * 4 * 32 * 32 * 16
    counted = step(lambda *x: F.scaled_dot_product_attention(*x, is_causal=is_causal), q, k, v)
    assert counted.total == forward * 7 // 2
    # the causal column keeps 32 * 33 / 2 of 32 * 32 pairs in both passes
    assert counted.causal == (counted.total * 33 // 64 if is_causal else counted.total)


def test_eager_attention_step_is_three_forwards() -> None:
    """Attention as two products keeps its scores and costs 3 F."""
    q, k, v = (needs_grad(2, 4, 32, 16) for _ in range(3))
    counted = step(lambda q, k, v: (q @ k.mT).softmax(-1) @ v, q, k, v)
    assert counted.total == 3 * 2 * 2 * 2 * 4 * 32 * 32 * 16


@pytest.mark.parametrize(
    ("reentrant", "forwards"),
    [
        (True, 2),  # everything again
        (False, 1.5),  # stops early: the last product's output is not needed again
    ],
)
def test_checkpointed_block_counts_recomputed_products(reentrant: bool, forwards: float) -> None:
    """Activation checkpointing adds the forward products that it really repeats."""
    block = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    forward = 2 * 2 * 8 * 16 * 16
    counted = step(lambda x: checkpoint(block, x, use_reentrant=reentrant), needs_grad(8, 16))
    assert counted.total == int((forwards + 2) * forward)


def test_grouped_mm_step_is_three_forwards_of_the_rows_in_groups() -> None:
    """Both gradients of grouped_mm cover the rows in groups, and none behind them."""
    ends = torch.tensor([4, 4, 20], dtype=torch.int32)
    rows, weights = needs_grad(24, 16), needs_grad(3, 16, 8)
    counted = step(lambda a, b: torch._grouped_mm(a, b, ends), rows, weights)
    assert counted.total == 3 * 2 * 20 * 16 * 8


def test_lstm_step_is_three_forwards() -> None:
    """A recurrent layer's backward pass costs 2 F."""
    lstm = nn.LSTM(64, 32, batch_first=True)
    counted = step(lambda x: lstm(x)[0], needs_grad(4, 10, 64))
    assert counted.total == 3 * 2 * 40 * 4 * 32 * (64 + 32)


def test_products_in_a_custom_autograd_function_count() -> None:
    """They count in both directions."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
            a, b = ctx.saved_tensors
            return grad @ b.T, a.T @ grad

    assert step(Product.apply, needs_grad(3, 4), needs_grad(4, 5)).macs == 3 * 60


def test_gradient_work_belongs_to_a_named_region_or_to_backward() -> None:
    """Backward work is counted under `backward` unless a region is open around it."""
    a, b = needs_grad(3, 4), needs_grad(4, 5)

    def run() -> None:
        with routing.region("expert"):
            out = a @ b
        torch.autograd.grad(out.sum(), a, retain_graph=True)
        with routing.region("router"):
            torch.autograd.grad(out.sum(), b)

    assert count(run).by_region == {"expert": 120, BACKWARD: 120, "router": 120}


def test_optimiser_and_loss_cost_no_flops() -> None:
    """AdamW and cross-entropy multiply no matrices, and the count is complete."""
    weight = needs_grad(8, 4)
    optimiser = torch.optim.AdamW([weight])

    def run() -> None:
        F.cross_entropy(weight, torch.zeros(8, dtype=torch.long)).backward()
        nn.utils.clip_grad_norm_([weight], 1.0)
        optimiser.step()

    counted = count(run, strict=True)
    assert (counted.total, counted.complete) == (0, True)


sizes = st.integers(min_value=1, max_value=6)


@settings(max_examples=40, deadline=None)
@given(batch=sizes, length=sizes, width=sizes, hidden=sizes)
def test_linear_step_for_any_shape(batch: int, length: int, width: int, hidden: int) -> None:
    """A linear layer's step is 3 F at every shape."""
    counted = step(nn.Linear(width, hidden), needs_grad(batch, length, width))
    assert counted.total == 3 * 2 * batch * length * width * hidden


@settings(max_examples=40, deadline=None)
@given(groups=sizes, per_group=sizes, out_per_group=sizes, kernel=st.integers(1, 3), stride=sizes)
def test_convolution_step_for_any_shape(
    groups: int, per_group: int, out_per_group: int, kernel: int, stride: int
) -> None:
    """A convolution's step is 3 F at every grouping and stride."""
    layer = nn.Conv1d(groups * per_group, groups * out_per_group, kernel, stride, groups=groups)
    length = (8 - kernel) // stride + 1
    counted = step(layer, needs_grad(2, groups * per_group, 8))
    assert counted.total == 3 * 2 * 2 * groups * out_per_group * length * per_group * kernel


@settings(max_examples=40, deadline=None)
@given(heads=sizes, queries=sizes, width=sizes)
def test_attention_for_any_shape(heads: int, queries: int, width: int) -> None:
    """Causal attention's two columns hold at every shape."""
    q = r(2, heads, queries, width)
    counted = count(F.scaled_dot_product_attention, q, q, q, is_causal=True)
    per_pair = 2 * 2 * width * 2 * heads
    assert counted.total == queries * queries * per_pair
    if counted.by_op.keys() == {"aten::_scaled_dot_product_flash_attention_for_cpu"}:
        assert counted.causal == queries * (queries + 1) // 2 * per_pair


def test_weighted_bags_cost_as_much_for_either_gradient() -> None:
    """6 indices of 4 columns: 24 MACs forward, for the table's gradient and for the weights'."""
    table, weights = r(9, 4, requires_grad=True), r(2, 3, requires_grad=True)
    index = torch.arange(6).view(2, 3)

    def step() -> None:
        F.embedding_bag(index, table, per_sample_weights=weights, mode="sum").sum().backward()

    assert count(step, strict=True).macs == 3 * 24
