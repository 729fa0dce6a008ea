"""Soft mixture of experts: weighted means in, weighted means out."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Unsupported
from methods.experts.soft_moe import SoftMoE, SoftMoEFFN
from methods.trunk.feedforward import FeedForward


def layer(**settings) -> SoftMoEFFN:
    """Four experts of width 12 with two slots each, on tokens of width 8."""
    ffn = SoftMoEFFN(8, 12, SoftMoE(**{"num_experts": 4, "slots_per_expert": 2, **settings}))
    for parameter in ffn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ffn


def test_dispatch_and_combine_weights_add_up_to_one() -> None:
    """A slot is a mean over tokens, an output a mean over slots."""
    into, back = layer().weights(torch.randn(2, 9, 8))
    torch.testing.assert_close(into.sum(1), torch.ones(2, 8))
    torch.testing.assert_close(back.sum(2), torch.ones(2, 9))


def test_output_is_the_definition() -> None:
    """Y = C f(D^T X), expert e on slots 2e and 2e + 1."""
    ffn, x = layer(activation="swiglu"), torch.randn(2, 9, 8)
    into, back = ffn.weights(x)
    slots = torch.einsum("bts,btd->bsd", into, x)
    done = torch.cat([f(slots[:, 2 * e : 2 * e + 2]) for e, f in enumerate(ffn.experts.each())], 1)
    torch.testing.assert_close(ffn(x), torch.einsum("bts,bsd->btd", back, done))


def test_cost_is_set_by_the_slots() -> None:
    """Experts execute slots x 4 D h FLOPs per sample, however many tokens there are."""
    for num_tokens in (5, 20):
        counted = count(layer(), torch.randn(3, num_tokens, 8), strict=True)
        assert counted.by_region["expert"] == 3 * 8 * (4 * 8 * 12)


def test_nothing_is_decided(tiny_image) -> None:
    """Soft routing announces no decision, and all tokens reach all experts."""
    model = SoftMoE().build(tiny_image.spec, tiny_image.backbone).eval()
    with routing.observe() as seen:
        model(tiny_image.batch(2))
    assert seen.decisions == []


def test_permuting_tokens_permutes_outputs() -> None:
    """Slots are sets of tokens: their order does not matter."""
    ffn, x = layer(), torch.randn(2, 9, 8)
    p = torch.randperm(9)
    torch.testing.assert_close(ffn(x[:, p]), ffn(x)[:, p])


def test_everything_learns() -> None:
    """Slots, scale and all experts get a gradient."""
    ffn = layer()
    ffn(torch.randn(2, 9, 8)).square().sum().backward()
    for name, parameter in ffn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_causal_tasks_are_unsupported(tiny_text) -> None:
    """A causal task is refused with a reason."""
    with pytest.raises(Unsupported, match="causal"):
        SoftMoE().build(tiny_text.spec, tiny_text.backbone)


def test_of_pairs_only_the_encoder_compares_tokens(tiny_pairs) -> None:
    """The encoder's four layers are replaced, the causal decoder's stay dense."""
    model = SoftMoE().build(tiny_pairs.spec, tiny_pairs.backbone)
    assert all(isinstance(block.ffn, SoftMoEFFN) for block in model.stem.blocks)
    assert all(isinstance(block.ffn, FeedForward) for block in model.blocks)
    assert len(model.stem.blocks) == len(model.blocks) == 4


def test_a_sample_of_padding_only_is_finite_and_changes_no_other() -> None:
    """Its slots are means of padding, with gradients; the other samples' results stay."""
    ffn, x = layer(), torch.randn(2, 9, 8)
    mask = torch.ones(2, 9, dtype=torch.bool)
    expected = ffn(x, mask)[1]
    mask[0] = False
    y = ffn(x, mask)
    assert y.isfinite().all()
    torch.testing.assert_close(y[1], expected)
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in ffn.parameters())
