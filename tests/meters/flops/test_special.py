"""Attention, fused layers, grouped, sparse and quantised products, control flow: closed forms.

These are the ops where other counters report nothing, the dense cost, or every branch.
Letters: B batch, H heads, T tokens, E head width, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.meters.flops.counter import count

# torch announces that sparse compressed and nested tensors and quantised dtypes may change
pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse:UserWarning",
    "ignore:The PyTorch API of nested tensors:UserWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore:flex_attention called without:UserWarning",
)

Mode = Callable[[], AbstractContextManager[Any]]
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]
r = torch.randn
B, H, T, E, D = 2, 4, 32, 16, 64
SDPA = 2 * 2 * B * H * T * T * E  # Q K^T and P V: 524 288
MHA = SDPA + 4 * 2 * B * T * D * D  # and four projections: 2 621 440
LAYER = MHA + 2 * 2 * B * T * D * 128  # and two feed-forward layers of width 128: 4 718 592


def heads(num_heads: int = H, dtype: torch.dtype = torch.float32) -> Tensor:
    return r(B, num_heads, T, E, dtype=dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, **options)


ATTENTION: dict[str, Callable[[], Any]] = {
    "fused": lambda: sdpa(heads(), heads(), heads()),
    "fused, bfloat16": lambda: sdpa(*(heads(dtype=torch.bfloat16) for _ in range(3))),
    "fused, causal, counted full": lambda: sdpa(heads(), heads(), heads(), is_causal=True),
    "fused, masked": lambda: sdpa(heads(), heads(), heads(), attn_mask=torch.ones(T, T).bool()),
    "fused, two key heads for four": lambda: sdpa(heads(), heads(2), heads(2), enable_gqa=True),
    "math": lambda: sdpa_kernel(SDPBackend.MATH)(sdpa)(heads(), heads(), heads()),
    "dropout": lambda: sdpa(heads(), heads(), heads(), dropout_p=0.1),
    "eager": lambda: (heads() @ heads().mT).softmax(-1) @ heads(),
}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", ATTENTION)
def test_every_attention_counts_two_products(name: str, mode: Mode) -> None:
    """Attention costs Q K^T and P V, whichever kernel runs it, masked or not."""
    with mode():
        assert count(ATTENTION[name], strict=True).total == SDPA


def test_attention_between_lengths_and_widths() -> None:
    """Keys of another length and values of another width enter the count."""
    # 3 queries, 5 keys, E = 8, values of width 6, 2 x 4 heads
    with sdpa_kernel(SDPBackend.MATH):
        counted = count(sdpa, r(2, 4, 3, 8), r(2, 4, 5, 8), r(2, 4, 5, 6), strict=True)
    assert counted.total == 2 * 8 * 3 * 5 * (8 + 6)


def test_causal_attention_has_a_second_column() -> None:
    """The causal column leaves out what the mask makes zero: 0.504 of it remains at 128 tokens."""
    q = r(1, 1, 128, E)
    counted = count(sdpa, q, q, q, is_causal=True)
    # 128 * 129 / 2 of 128 * 128 pairs, 2 * 2 * 16 FLOPs each
    assert (counted.total, counted.causal) == (128 * 128 * 64, 128 * 129 // 2 * 64)
    assert counted.causal / counted.total == pytest.approx(0.504, abs=5e-4)
    assert count(sdpa, q, q, q).causal == counted.total


def math_sdpa(*tensors: Tensor, **options: Any) -> Tensor:
    return sdpa_kernel(SDPBackend.MATH)(sdpa)(*tensors, **options)


# 5 queries and 8 keys of width 4 in 2 x 3 heads; 15 pairs of 40 lie on or below the diagonal
WIDTHS = (r(2, 3, 5, 4), r(2, 3, 8, 4), r(2, 3, 8, 6))
BY_PARTS: dict[str, tuple[Callable[[], Any], float]] = {
    "math": (lambda: math_sdpa(*WIDTHS[:2], WIDTHS[1], is_causal=True), 15 / 40),
    "dropout": (
        lambda: sdpa(*WIDTHS[:2], WIDTHS[1], is_causal=True, dropout_p=0.1),
        15 / 40,
    ),
    "values wider than queries": (lambda: sdpa(*WIDTHS, is_causal=True), 15 / 40),
    "more queries than keys": (
        # 9 queries, 5 keys: 15 pairs in the square, and 4 rows of 5
        lambda: math_sdpa(r(1, 2, 9, 4), r(1, 2, 5, 4), r(1, 2, 5, 4), is_causal=True),
        35 / 45,
    ),
    "grouped queries": (
        lambda: math_sdpa(heads(), heads(2), heads(2), is_causal=True, enable_gqa=True),
        33 / 64,
    ),
    "bfloat16": (
        lambda: math_sdpa(*(heads(dtype=torch.bfloat16) for _ in range(3)), is_causal=True),
        33 / 64,
    ),
    # masks of the caller's own skip nothing in any backend
    "triangular mask": (
        lambda: math_sdpa(
            heads(), heads(), heads(), attn_mask=torch.ones(T, T, dtype=torch.bool).tril()
        ),
        1,
    ),
    "triangular mask of numbers": (
        lambda: math_sdpa(heads(), heads(), heads(), attn_mask=r(T, T).tril()),
        1,
    ),
    "not causal": (lambda: math_sdpa(heads(), heads(), heads()), 1),
    # a causal call is over when it ends: the products after it are whole
    "causal, then not": (
        lambda: math_sdpa(math_sdpa(heads(), heads(), heads(), is_causal=True), heads(), heads()),
        (33 / 64 + 1) / 2,
    ),
}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", BY_PARTS)
def test_causal_attention_in_parts_has_the_same_second_column(name: str, mode: Mode) -> None:
    """Where no fused kernel runs, the masked half of both products is left out as well."""
    run, share = BY_PARTS[name]
    with mode():
        counted = count(run, strict=True)
    assert counted.causal == round(counted.total * share)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_the_multi_head_fast_path_counts_as_the_slow_path(mode: Mode) -> None:
    """nn.MultiheadAttention and the encoder layer count alike, fused or taken apart."""
    mha = nn.MultiheadAttention(D, H, batch_first=True).eval()
    layer = nn.TransformerEncoderLayer(D, H, 128, batch_first=True).eval()
    x = r(B, T, D)
    with mode():
        assert count(mha, x, x, x, need_weights=False, strict=True).total == MHA
        counted = count(layer, x, strict=True)
    assert counted.total == LAYER
    assert ("aten::_transformer_encoder_layer_fwd" in counted.by_op) == (mode is not MODES[0])


def test_cross_attention_on_the_fast_path() -> None:
    """Keys and values of another length are projected at their own length."""
    mha = nn.MultiheadAttention(D, H, batch_first=True).eval()
    x, memory = r(B, 8, D), r(B, T, D)
    # queries and output: 8 tokens; keys and values: 32; 8 x 32 pairs
    macs = B * D * D * (2 * 8 + 2 * T) + 2 * B * 8 * T * D
    with torch.no_grad():
        assert count(mha, x, memory, memory, strict=True).macs == macs


def test_padded_encoder_skips_padding_where_the_nested_kernel_does() -> None:
    """With a padding mask, linear layers run on real tokens and attention on padded ones."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(D, H, 128, batch_first=True), 2)
    padding = torch.zeros(B, T, dtype=torch.bool)
    padding[0, 20:] = True  # 52 real tokens
    with torch.no_grad():
        counted = count(encoder.eval(), r(B, T, D), src_key_padding_mask=padding, strict=True)
    assert counted.total == 2 * (2 * 52 * (4 * D * D + 2 * D * 128) + SDPA)


OFFSETS = [4, 4, 12, 20]  # group sizes 4, 0, 8, 8; rows from 20 on are in no group


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_mm_counts_rows_by_their_offsets(dtype: torch.dtype) -> None:
    """grouped_mm costs what lies inside the groups, in every layout, and nothing behind them."""
    ends = torch.tensor(OFFSETS, dtype=torch.int32)
    g = len(OFFSETS)
    rows, weights = r(24, 16).to(dtype), r(g, 16, 8).to(dtype)
    layouts = {
        # 20 rows in groups, 16 -> 8
        "rows": (rows, weights, ends),
        # 20 columns in groups: [g, 32, 16] x [16, 24]
        "columns": (r(g, 32, 16).to(dtype), r(24, 16).to(dtype).t(), ends),
        # summed dimension in groups: [32, 24] x [24, 8]
        "summed": (r(24, 32).to(dtype).t(), r(24, 8).to(dtype), ends),
        # no groups: a batched product
        "batched": (r(g, 24, 16).to(dtype), weights, None),
    }
    macs = {"rows": 20 * 16 * 8, "columns": 32 * 16 * 20, "summed": 32 * 20 * 8}
    macs["batched"] = g * 24 * 16 * 8
    for name, (left, right, offs) in layouts.items():
        assert count(torch._grouped_mm, left, right, offs, strict=True).macs == macs[name], name


def diagonal(size: int, layout: str) -> Tensor:
    """A diagonal matrix: `size` stored elements."""
    return getattr(torch.eye(size), f"to_sparse{layout}")()


def sparse_cases() -> dict[str, tuple[Callable[[], Any], int]]:
    """Work, and its MACs: stored elements times columns."""
    x, bias = r(8, 64), r(64)
    csr, coo = diagonal(64, "_csr"), diagonal(64, "")
    blocks = torch.eye(64).to_sparse_bsr((16, 16))  # four blocks of 256
    masked = torch.eye(64)
    return {
        "linear, CSR weight": (lambda: F.linear(x, csr), 64 * 8),
        "linear, CSR weight and bias": (lambda: F.linear(x, csr, bias), 64 * 8),
        "linear, BSR weight counts whole blocks": (lambda: F.linear(x, blocks), 4 * 256 * 8),
        "CSR @ dense": (lambda: csr @ r(64, 8), 64 * 8),
        "CSR @ vector": (lambda: csr @ r(64), 64),
        "CSC @ dense": (lambda: diagonal(64, "_csc") @ r(64, 8), 64 * 8),
        "COO @ dense": (lambda: torch.sparse.mm(coo, r(64, 8)), 64 * 8),
        # row 0 of the left (one element) meets three elements of the right
        "COO @ COO": (
            lambda: torch.sparse.mm(coo, torch.ones(64, 3).tril(-61).to_sparse()),
            1 + 2 + 3,
        ),
        "CSR @ CSR": (lambda: torch.sparse.mm(csr, csr), 64),
        "sampled product": (lambda: torch.sparse.sampled_addmm(csr, r(64, 5), r(5, 64)), 64 * 5),
        # the zeros of a pruned dense weight are multiplied like any other number
        "masked dense weight": (lambda: F.linear(x, r(64, 64) * masked), 8 * 64 * 64),
    }


def test_sparse_products_count_stored_elements() -> None:
    """A sparse operand costs its stored elements; a masked dense one costs everything."""
    with torch.no_grad():
        for name, (run, macs) in sparse_cases().items():
            counted = count(run, strict=True)
            assert counted.macs == macs, name


def test_quantised_linear_counts_its_integer_product() -> None:
    """A dynamically quantised linear layer [3, 8] -> [3, 4] costs 3 * 8 * 4 MACs."""
    weight = torch.quantize_per_tensor(r(4, 8), 0.1, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, r(4))
    assert count(torch.ops.quantized.linear_dynamic, r(3, 8), packed, strict=True).macs == 96


def test_nested_jagged_tensors_count_their_real_tokens() -> None:
    """A linear layer on sequences of 3 and 5 tokens multiplies 8 tokens."""
    sequences = [r(3, 16), r(5, 16)]
    jagged = torch.nested.nested_tensor(sequences, layout=torch.jagged)
    nested = torch.nested.nested_tensor(sequences)
    for tokens in (jagged, nested):
        assert count(F.linear, tokens, r(4, 16), strict=True).macs == 8 * 16 * 4


def test_products_of_nested_tensors_are_flagged_rather_than_guessed() -> None:
    """A matmul of two nested tensors is not counted, and the count is incomplete."""
    left = torch.nested.nested_tensor([r(3, 16), r(5, 16)])
    right = torch.nested.nested_tensor([r(16, 2), r(16, 2)])
    counted = count(torch.matmul, left, right)
    assert not counted.complete
    assert set(counted.ops_without_formula) <= {"aten::matmul", "aten::bmm"}


def test_cond_counts_only_the_branch_taken() -> None:
    """torch.cond executes and counts one branch, in each of two calls."""
    x = r(16, 16)

    def one(x: Tensor) -> Tensor:
        return x @ x

    def three(x: Tensor) -> Tensor:
        return x @ x @ x @ x

    def both(x: Tensor) -> Tensor:
        y = torch.cond(torch.tensor(False), three, one, (x,))
        return torch.cond(torch.tensor(True), three, one, (y,))

    with torch.no_grad():
        assert count(both, x, strict=True).macs == (1 + 3) * 16**3


def test_cond_keeps_the_gradients_of_weights_in_its_branches() -> None:
    """A counted training step through torch.cond has the gradients of the uncounted one."""
    weight, x = r(8, 8, requires_grad=True), r(4, 8, requires_grad=True)

    def step() -> tuple[Tensor, ...]:
        y = torch.cond(torch.tensor(True), lambda a: a @ weight, lambda a: a, (x,))
        return torch.autograd.grad(y.sum(), (weight, x))

    counted = count(step, strict=True)
    expected = (x.T @ torch.ones(4, 8), torch.ones(4, 8) @ weight.T)
    assert all(map(torch.equal, counted.result, expected))
    assert counted.macs == 3 * 4 * 8 * 8  # forward, both gradients


def test_while_loop_counts_every_turn() -> None:
    """A while_loop of five products counts five."""
    from torch._higher_order_ops.while_loop import while_loop

    x = r(16, 16)

    def turns() -> Any:
        return while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, y @ x), (torch.tensor(0), x))

    assert count(turns, strict=True).macs == 5 * 16**3


def test_other_higher_order_operators_are_flagged() -> None:
    """flex_attention runs under a count and is listed as an op without a formula."""
    from torch.nn.attention.flex_attention import flex_attention

    q = r(1, 2, 16, 8)
    counted = count(flex_attention, q, q, q)
    assert counted.ops_without_formula == {"higher_order::flex_attention": 1}
    assert counted.result.shape == q.shape


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_model_counts_as_its_eager_program(fullgraph: bool) -> None:
    """torch.compile under a count runs, and counts, the eager program."""
    model = torch.compile(lambda x: (x @ x).relu(), backend="eager", fullgraph=fullgraph)
    assert count(model, r(16, 16), strict=True).macs == 16**3
