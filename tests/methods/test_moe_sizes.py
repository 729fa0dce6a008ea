"""Mixtral-8x7B and DeepSeekMoE-16B by name: parameters on meta, FLOPs of a real layer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from bench.meters.flops import count
from bench.types import TaskSpec
from methods.backbone.trunk import State
from methods.deepseek_moe import DeepSeekFFN, DeepSeekMoE
from methods.moe import MoE, MoEFFN
from tests.backbone_sizes import backbone

MIXTRAL = ("mixtral_8x7b", "mistral_7b", 32_000)
DEEPSEEK = ("deepseek_moe_16b", "deepseek_16b", 102_400)
LENGTH = 16
VARIANTS = Path(__file__).parents[2] / "conf" / "method"
MAKERS = {"moe": MoE, "deepseek_moe": DeepSeekMoE}


def method(name: str) -> MoE | DeepSeekMoE:
    """What `method=NAME` chooses."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(VARIANTS / f"{name}.yaml"))
    (base,) = settings.pop("defaults")
    return MAKERS[base](**settings)


@cache
def model(name: str, trunk: str, vocabulary: int) -> Any:
    """The named model without memory for its weights."""
    spec = TaskSpec(name, "tokens", (LENGTH,), vocabulary, vocab_size=vocabulary, causal=True)
    with torch.device("meta"):
        return method(name).build(spec, backbone(trunk)).eval()


def num_idle(module: nn.Module) -> int:
    """Parameters of the routed experts that a token does not visit."""
    experts = (m for m in module.modules() if isinstance(m, (MoEFFN, DeepSeekFFN)))
    return sum(
        sum(weights[0].numel() for weights in (m.experts.up, m.experts.down))
        * (len(m.experts.up) - m.top_k)
        for m in experts
    )


@pytest.mark.parametrize(
    ("size", "total", "active"),
    [
        # Printed: 46.7 B and 12.9 B (Jiang et al. 2024). Embedding and head 2 x 32,000 x 4,096; in
        # each of 32 layers attention 2 x 4,096^2 + 2 x 4,096 x 1,024, 8 experts of
        # 3 x 4,096 x 14,336, router 8 x 4,096, norms 2 x 4,096; final norm 4,096. Idle: 6 experts.
        (MIXTRAL, 46_702_792_704, 12_879_925_248),
        # Printed: 16.4 B and 2.8 B (Dai et al. 2024). 2 x 102,400 x 2,048; 28 layers with attention
        # 4 x 2,048^2 and norms; one dense layer 3 x 2,048 x 10,944; 27 with 64 + 2 experts of
        # 3 x 2,048 x 1,408 and a router. Idle: 58 experts of 27 layers.
        (DEEPSEEK, 16_375_728_128, 2_828_650_496),
    ],
)
def test_parameters_are_the_published_ones(size: Any, total: int, active: int) -> None:
    """Total and active parameters of a token, to the last one."""
    made = model(*size)
    num_params = sum(parameter.numel() for parameter in made.parameters())
    assert num_params == total
    assert num_params - num_idle(made) == active


@pytest.mark.parametrize("size", [MIXTRAL, DEEPSEEK])
def test_a_real_layer_times_depth_is_twice_the_active_parameters(size: Any) -> None:
    """One layer runs on 16 tokens: 2 FLOPs per active weight and token, and attention's products.

    Its weights are memory that was never written, so that only what is computed is real.
    """
    made = model(*size)
    block = made.blocks[-1]
    real = block.to_empty(device="cpu") if next(block.parameters()).is_meta else block
    state = State(torch.randn(1, LENGTH, made.dim))
    with torch.inference_mode():
        spent = count(real, state).total
    norms = sum(m.weight.numel() for m in real.modules() if isinstance(m, nn.RMSNorm))
    active = sum(p.numel() for p in real.parameters()) - num_idle(real) - norms
    attention = 4 * LENGTH**2 * made.dim  # scores and their mixing
    assert spent == 2 * active * LENGTH + attention
    if size == MIXTRAL:  # all layers alike: with the head, 2 FLOPs per active parameter
        head = 2 * made.spec.num_outputs * made.dim
        per_token = (spent - attention) // LENGTH * len(made.blocks) + head
        embedding, all_norms = made.spec.num_outputs * made.dim, 65 * made.dim
        assert per_token == 2 * (12_879_925_248 - embedding - all_norms)
