"""Our mixtures against Hugging Face's Mixtral and DeepSeek-V3 blocks with copied weights."""

from __future__ import annotations

import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV3Config, MixtralConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from methods.experts.deepseek_moe import DeepSeekFFN, DeepSeekMoE
from methods.experts.moe import MoE, MoEFFN

BACKENDS = ["loop", "grouped", "dense_masked"]


def randomize(block: torch.nn.Module) -> torch.nn.Module:
    """The block in inference mode with weights of a size at which routing matters."""
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return block.eval()


def copy_experts(ours: MoEFFN | DeepSeekFFN, theirs: torch.nn.Module) -> None:
    """Their weights are [E, outputs, inputs], ours [E, inputs, outputs]."""
    ours.experts.up.data.copy_(theirs.experts.gate_up_proj.data.transpose(1, 2))
    ours.experts.down.data.copy_(theirs.experts.down_proj.data.transpose(1, 2))


def copy_deepseek(ours: DeepSeekFFN, theirs: torch.nn.Module) -> None:
    """Router, experts and shared expert, whose gate and up projections are one matrix here."""
    ours.router.weight.data.copy_(theirs.gate.weight.data)
    copy_experts(ours, theirs)
    shared = theirs.shared_experts
    ours.shared.up.data[0] = torch.cat([shared.gate_proj.weight, shared.up_proj.weight]).T
    ours.shared.down.data[0] = shared.down_proj.weight.T


def must_learn_alike(
    ours: MoEFFN | DeepSeekFFN, got: torch.Tensor, theirs: torch.nn.Module, expected: torch.Tensor
) -> None:
    """The gradients of router and experts in a random direction of the outputs are equal."""
    direction = torch.randn_like(expected)
    mine = torch.autograd.grad(
        (got * direction).sum(), (ours.router.weight, ours.experts.up, ours.experts.down)
    )
    router, up, down = torch.autograd.grad(
        (expected * direction).sum(),
        (theirs.gate.weight, theirs.experts.gate_up_proj, theirs.experts.down_proj),
    )
    other = (router, up.transpose(1, 2), down.transpose(1, 2))
    torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixtral_block(backend: str) -> None:
    """MoE(activation=swiglu) equals MixtralSparseMoeBlock: top-2 of 8, outputs and gradients."""
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=8)
    config._experts_implementation = "eager"
    theirs = randomize(MixtralSparseMoeBlock(config))
    ours = MoEFFN(16, 24, MoE(activation="swiglu", backend=backend)).eval()
    ours.router.weight.data.copy_(theirs.gate.weight.data)
    copy_experts(ours, theirs)
    x = torch.randn(3, 7, 16)
    expected, got = theirs(x), ours(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    must_learn_alike(ours, got, theirs, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_deepseek_v3_block(backend: str) -> None:
    """DeepSeekMoE equals DeepseekV3MoE: groups, selection bias, scale and shared expert.

    Outputs and gradients.
    """
    config = DeepseekV3Config(
        hidden_size=16,
        moe_intermediate_size=8,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_shared_experts=2,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
    )
    config._experts_implementation = "eager"
    theirs = randomize(DeepseekV3MoE(config))
    theirs.gate.e_score_correction_bias.normal_(std=0.2)
    settings = DeepSeekMoE(
        num_experts=16,
        top_k=4,
        num_shared=2,
        activation="swiglu",
        num_groups=4,
        top_groups=2,
        route_scale=2.5,
        backend=backend,
    )
    ours = DeepSeekFFN(16, 8, settings).eval()
    copy_deepseek(ours, theirs)
    ours.bias.copy_(theirs.gate.e_score_correction_bias)
    x = torch.randn(3, 7, 16)
    expected, got = theirs(x), ours(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    must_learn_alike(ours, got, theirs, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_deepseek_softmax_block(backend: str) -> None:
    """scores=softmax, DeepSeekMoE-16B's gate, equals DeepseekV2Moe without groups."""
    config = DeepseekV2Config(
        hidden_size=16,
        num_attention_heads=2,
        moe_intermediate_size=8,
        n_routed_experts=16,
        num_experts_per_tok=6,
        n_shared_experts=2,
        topk_method="greedy",
        routed_scaling_factor=1.0,
    )
    config._experts_implementation = "eager"
    theirs = randomize(DeepseekV2Moe(config))
    settings = DeepSeekMoE(
        num_experts=16,
        top_k=6,
        num_shared=2,
        activation="swiglu",
        scores="softmax",
        backend=backend,
    )
    ours = DeepSeekFFN(16, 8, settings).eval()
    copy_deepseek(ours, theirs)
    x = torch.randn(3, 7, 16)
    expected, got = theirs(x), ours(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    must_learn_alike(ours, got, theirs, expected)
