"""Mixtral-8x7B and DeepSeekMoE-16B by name: parameters on meta, FLOPs of a real layer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from bench.meters.flops.counter import count
from bench.types import TaskSpec
from methods.experts.deepseek_moe import DeepSeekFFN, DeepSeekMoE
from methods.experts.moe import MoE, MoEFFN
from methods.trunk.state import State
from tests.studies.backbone_sizes import backbone

MIXTRAL = ("mixtral_8x7b", "mistral_7b", 32_000)
DEEPSEEK = ("deepseek_moe_16b", "deepseek_16b", 102_400)
LENGTH = 16
VARIANTS = Path(__file__).parents[3] / "conf" / "method"
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


def real_flops(made: Any, place: int) -> int:
    """FLOPs (2 x MAC) of one layer on 16 tokens.

    Its weights are memory that was never written, so that only what is computed is real.
    """
    block = made.blocks[place]
    real = block.to_empty(device="cpu") if next(block.parameters()).is_meta else block
    with torch.inference_mode():
        return count(real, State(torch.randn(1, LENGTH, made.dim))).total


@pytest.mark.parametrize(
    ("size", "num_dense", "active"),
    [(MIXTRAL, 0, 12_879_925_248), (DEEPSEEK, 1, 2_828_650_496)],
)
def test_real_layers_times_depth_are_twice_the_active_parameters(
    size: Any, num_dense: int, active: int
) -> None:
    """One real layer of each kind, times how many there are, and the head: 2 FLOPs per active
    weight and token, and attention's products. Embeddings and norms multiply nothing.
    """
    made = model(*size)
    depth, head = len(made.blocks), 2 * made.spec.num_outputs * made.dim
    spent = (depth - num_dense) * real_flops(made, -1)
    spent += num_dense * real_flops(made, 0) if num_dense else 0
    attention = depth * 4 * LENGTH**2 * made.dim  # scores and their mixing
    unmultiplied = made.spec.num_outputs * made.dim + (2 * depth + 1) * made.dim
    assert (spent - attention) // LENGTH + head == 2 * (active - unmultiplied)
