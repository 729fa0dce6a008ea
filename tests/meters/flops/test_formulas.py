"""Formulas of ops that no CPU runs, called directly or on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.meters.flops.call import Call, Cost
from bench.meters.flops.counter import count
from bench.meters.flops.formulas.attention import causal_pairs
from bench.meters.flops.formulas.table import FORMULAS, version

B, H, S, L, E = 2, 4, 6, 6, 8
FULL = 2 * 2 * B * H * S * L * E
CAUSAL = FULL * 21 // 36  # 6 * 7 / 2 of 6 * 6 pairs


def cost(op: str, output: Any = None, **arguments: Any) -> Any:
    return FORMULAS[op](Call(op, arguments, output))


def offsets(*lengths: int) -> Tensor:
    """The start of each sequence, and the end of the last one."""
    return torch.tensor([0, *lengths]).cumsum(0).int()


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn"])
def test_gpu_attention_counts_on_the_meta_device(kernel: str) -> None:
    """The GPU's attention kernels have formulas by name, with arguments in their own order."""
    q = torch.randn(B, H, S, E, device="meta", dtype=torch.bfloat16)
    op = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_attention")
    extra = () if kernel == "flash" else (None, False)  # bias, whether to keep logsumexp
    counted = count(op, q, q, q, *extra, 0.0, True, strict=True)
    assert (counted.total, counted.causal) == (FULL, CAUSAL)


ARGUMENTS = {"query", "key", "value", "is_causal"}


def test_attention_formulas_read_arguments_that_exist() -> None:
    """Every attention op of this torch has the arguments that its formula reads."""
    found = 0
    for name in FORMULAS:
        short = name.removeprefix("aten::")
        if "scaled_dot_product" in short and hasattr(torch.ops.aten, short):
            packet = getattr(torch.ops.aten, short)
            for overload in packet.overloads():
                schema = getattr(packet, overload)._schema
                assert {argument.name for argument in schema.arguments} >= ARGUMENTS, name
                found += 1
    assert found >= 10


def test_attention_of_packed_sequences_counts_each_with_itself() -> None:
    """Sequences of 3 and 5 tokens in one tensor make 9 + 25 pairs; causal 6 + 15."""
    q, ends = torch.randn(8, H, E), offsets(3, 5)
    per_pair = 2 * 2 * H * E
    packed = {"query": q, "key": q, "value": q, "cum_seq_q": ends, "cum_seq_k": ends}
    op = "aten::_flash_attention_forward"
    assert cost(op, **packed) == Cost(34 * per_pair, 34 * per_pair)
    assert cost(op, **packed, is_causal=True) == Cost(34 * per_pair, 21 * per_pair)
    assert cost("aten::_flash_attention_backward", **packed).full == 34 * per_pair * 5 // 2
    varlen = {"query": q, "key": q, "value": q, "cu_seq_q": ends, "cu_seq_k": ends}
    windows = {"window_size": [-1, 0]}  # torch's other form of causal
    assert cost("torch_attn::_varlen_attn", **varlen, **windows) == cost(
        op, **packed, is_causal=True
    )


def test_attention_in_sequence_major_layout() -> None:
    """Without offsets the low-level kernels take [B, S, H, E]."""
    q = torch.randn(B, S, H, E)
    given = {"query": q, "key": q, "value": q}
    assert cost("aten::_flash_attention_forward", **given, is_causal=True) == Cost(FULL, CAUSAL)
    top_left = cost("aten::_efficient_attention_forward", **given, custom_mask_type=1)
    assert top_left == Cost(FULL, CAUSAL)


@pytest.mark.parametrize(
    "option", [{"window_size_left": 4}, {"seqused_k": torch.ones(2)}, {"window_size": [4, 0]}]
)
def test_attention_with_a_window_has_no_cost(option: dict[str, Any]) -> None:
    """With a sliding window or partly used keys the formula returns None."""
    q = torch.randn(B, S, H, E)
    assert cost("aten::_flash_attention_forward", query=q, key=q, value=q, **option) is None


@given(st.integers(0, 12), st.integers(0, 12))
def test_causal_pairs_are_those_that_a_mask_leaves(queries: int, keys: int) -> None:
    """The closed form equals a triangle of ones, aligned at either corner."""
    mask = torch.ones(queries, keys)
    assert causal_pairs(queries, keys) == int(mask.tril().sum())
    aligned = causal_pairs(queries, keys, bottom_right=True)
    assert aligned == int(mask.tril(keys - queries).sum())


def test_cudnn_recurrent_layers_count_every_weight_matrix() -> None:
    """cuDNN's LSTM multiplies every matrix at every step; backward data and weights each again."""
    weights = [torch.randn(16, 8), torch.randn(16, 4), torch.randn(16), torch.randn(16)]
    given = {"input": torch.randn(5, 3, 8), "weight": weights}
    forward = 2 * 15 * 16 * (8 + 4)
    assert cost("aten::_cudnn_rnn", **given) == forward
    both = cost("aten::_cudnn_rnn_backward", **given, output_mask=[True, True, True, True])
    assert both == 2 * forward
    data = cost("aten::_cudnn_rnn_backward", **given, output_mask=[True, True, True, False])
    assert data == forward


def test_packed_weights_count_by_their_output() -> None:
    """Packed four-bit weights have another shape: rows [3, 8] to [3, 5] are 120 MACs."""
    output = torch.randn(3, 5)
    for op in ("aten::_weight_int4pack_mm", "aten::_dyn_quant_matmul_4bit"):
        assert cost(op, output, first=torch.randn(3, 8), second=torch.empty(1)) == 2 * 120


def test_the_fallback_of_transformers_has_a_formula() -> None:
    """transformers' loop over experts counts like grouped_mm; its backward pass twice that."""
    given = {"input": torch.randn(24, 16), "weight": torch.randn(3, 16, 8)}
    given["offs"] = torch.tensor([4, 4, 20])
    assert cost("transformers::grouped_mm_fallback", **given) == 2 * 20 * 16 * 8
    assert cost("transformers::grouped_mm_fallback_backward", **given) == 4 * 20 * 16 * 8


def test_products_over_lists_are_not_elementwise() -> None:
    """_foreach_mm multiplies matrices, unlike its siblings."""
    left, right = [torch.randn(3, 4), torch.randn(2, 3)], [torch.randn(4, 5), torch.randn(3, 1)]
    assert cost("aten::_foreach_mm", self=left, mat2=right) == 2 * (60 + 6)
    if hasattr(torch.ops.aten, "_foreach_mm"):  # newer than torch 2.11
        assert count(torch.ops.aten._foreach_mm, left, right, strict=True).macs == 60 + 6


def test_the_formulas_have_a_version() -> None:
    """Provenance: twelve hexadecimal digits that stay the same for the same source."""
    assert version() == version()
    assert len(version()) == 12
    assert int(version(), 16) >= 0
