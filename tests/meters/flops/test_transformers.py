"""Tiny Hugging Face mixtures of experts, random weights: exact for every attention and expert path.

N tokens of B sequences of T; D width, E head width, H hidden width of an expert.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.meters.flops.counter import count
from bench.meters.flops.crosscheck import profiler_flops

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

B, T, D, LAYERS, HEADS, KEY_HEADS, VOCAB, EXPERTS, K, H, SHARED = (
    2,
    16,
    64,
    2,
    4,
    2,
    96,
    4,
    2,
    48,
    32,
)
N, E = B * T, D // HEADS
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "num_experts_per_tok": K,
    "max_position_embeddings": 32,
}


def mixtral(**options: str) -> nn.Module:
    """Two layers of four experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(intermediate_size=H, num_local_experts=EXPERTS, **COMMON)
    return MixtralForCausalLM._from_config(config, **options)


def qwen_moe(**options: str) -> nn.Module:
    """The same with a gated expert that every token shares."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    config = Qwen2MoeConfig(
        moe_intermediate_size=H,
        shared_expert_intermediate_size=SHARED,
        num_experts=EXPERTS,
        **COMMON,
    )
    return Qwen2MoeForCausalLM._from_config(config, **options)


def closed_form(shared: int) -> int:
    """FLOPs of one forward pass of N tokens."""
    projections = 2 * N * D * (2 * HEADS * E + 2 * KEY_HEADS * E)  # queries, output; keys, values
    attention = 2 * 2 * B * HEADS * T * T * E  # counted full, masked or not
    router = 2 * N * D * EXPERTS
    experts = 2 * N * K * 3 * D * H  # gate, up, down
    always = 2 * N * (3 * D * shared + D) if shared else 0  # and its gate of width 1
    return LAYERS * (projections + attention + router + experts + always) + 2 * N * D * VOCAB


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["mixtral", "qwen_moe"])
def test_moe_transformers_count_exactly(family: str, attention: str, experts: str) -> None:
    """Mixtral and Qwen-MoE count their closed form, whichever kernels run attention and experts."""
    torch.manual_seed(0)
    build = {"mixtral": mixtral, "qwen_moe": qwen_moe}[family]
    model = build(attn_implementation=attention, experts_implementation=experts).eval()
    tokens = torch.randint(VOCAB, (B, T))
    with torch.inference_mode():
        counted = count(model, tokens, use_cache=False, strict=True)
    assert counted.total == closed_form(SHARED if family == "qwen_moe" else 0)
    grouped = {"aten::_grouped_mm", "transformers::grouped_mm_fallback"} & set(counted.by_op)
    assert bool(grouped) == (experts == "grouped_mm")  # the requested path ran
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu" in counted.by_op
    assert fused == (attention == "sdpa")


def test_the_profiler_agrees_on_a_whole_transformer() -> None:
    """With eager attention the profiler counts all of Mixtral: equal integers."""
    model = mixtral(attn_implementation="eager", experts_implementation="grouped_mm").eval()
    tokens = torch.randint(VOCAB, (B, T))
    with torch.no_grad():
        ledger = count(model, tokens, use_cache=False, strict=True).total
        assert sum(profiler_flops(model, tokens, use_cache=False).values()) == ledger
