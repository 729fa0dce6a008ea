"""Expert choice: experts pick tokens, evenly by construction."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Unsupported
from methods.experts.expert_choice import ExpertChoice, ExpertChoiceFFN
from methods.trunk.feedforward import FeedForward


def layer(**settings) -> ExpertChoiceFFN:
    """Four experts of width 12 on tokens of width 8, in inference mode."""
    ffn = ExpertChoiceFFN(8, 12, ExpertChoice(**{"num_experts": 4, **settings})).eval()
    for parameter in ffn.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ffn


def test_every_expert_takes_exactly_its_share() -> None:
    """Each expert picks ceil(factor N / E) tokens: 2 x 18 / 4 = 9."""
    ffn = layer()
    with routing.observe() as seen:
        ffn(torch.randn(2, 9, 8))
    assert seen.decisions[0].run.flatten(0, 1).sum(0).tolist() == [9, 9, 9, 9]


def test_experts_take_their_most_probable_tokens() -> None:
    """No token that an expert left out is more probable for it than one that it took."""
    ffn, x = layer(), torch.randn(2, 9, 8)
    with routing.observe() as seen:
        ffn(x)
    p = ffn.router(x).softmax(-1).flatten(0, 1)
    for e, run in enumerate(seen.decisions[0].run.flatten(0, 1).unbind(1)):
        assert p[run, e].min() >= p[~run, e].max()


def test_outputs_are_weighted_by_probability() -> None:
    """A token gets sum over the experts that took it of probability times expert; maybe nothing."""
    ffn, x = layer(capacity_factor=1.0), torch.randn(1, 12, 8)
    with routing.observe() as seen:
        out = ffn(x)
    run = seen.decisions[0].run
    p = ffn.router(x).softmax(-1)
    expected = sum((run * p)[..., e : e + 1] * f(x) for e, f in enumerate(ffn.experts.each()))
    torch.testing.assert_close(out, expected)
    lonely = ~run.any(-1)
    assert lonely.any()
    assert torch.equal(out[lonely], torch.zeros_like(out[lonely]))


def test_factor_e_is_the_dense_mixture() -> None:
    """When every expert takes every token the layer is the softmax mixture."""
    ffn, x = layer(capacity_factor=4.0), torch.randn(2, 5, 8)
    p = ffn.router(x).softmax(-1)
    expected = sum(p[..., e : e + 1] * f(x) for e, f in enumerate(ffn.experts.each()))
    torch.testing.assert_close(ffn(x), expected)


def test_executed_flops_are_the_declared_ones() -> None:
    """Counted FLOPs of the experts equal the decisions'."""
    ffn = layer()
    with routing.observe() as seen:
        counted = count(ffn, torch.randn(2, 9, 8), strict=True)
    assert counted.by_region["expert"] == seen.declared_flops() == 4 * 9 * (4 * 8 * 12)


def test_the_router_learns_from_the_task() -> None:
    """The output's gradient reaches the router."""
    ffn = layer().train()
    ffn(torch.randn(2, 9, 8)).square().sum().backward()
    assert ffn.router.weight.grad is not None
    assert ffn.router.weight.grad.abs().sum() > 0


def test_results_depend_on_the_batch_and_that_is_declared() -> None:
    """The same sample can get other experts in another batch."""
    ffn, x = layer(capacity_factor=1.0), torch.randn(6, 4, 8)
    assert not ExpertChoice().batch_invariant
    assert not torch.allclose(ffn(x)[:1], ffn(x[:1]))


def test_causal_tasks_are_unsupported(tiny_text) -> None:
    """A causal task is refused with a reason."""
    with pytest.raises(Unsupported, match="causal"):
        ExpertChoice().build(tiny_text.spec, tiny_text.backbone)


def test_operating_points_change_the_capacity(tiny_image) -> None:
    """Each point declares capacity_factor / 4 of the dense layers' FLOPs."""
    method = ExpertChoice()
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    dense = 4 * 16 * 32 * 4 * 3 * 16  # 4 layers, 3 samples of 16 tokens
    for point in method.points():
        method.set_point(model, point)
        with routing.observe() as seen:
            model(tiny_image.batch(3))
        assert seen.declared_flops() == dense * point["capacity_factor"] / 4


def test_of_pairs_only_the_encoder_compares_tokens(tiny_pairs) -> None:
    """The encoder's four layers are replaced, the causal decoder's stay dense."""
    model = ExpertChoice().build(tiny_pairs.spec, tiny_pairs.backbone)
    assert all(isinstance(block.ffn, ExpertChoiceFFN) for block in model.stem.blocks)
    assert all(isinstance(block.ffn, FeedForward) for block in model.blocks)
    assert len(model.stem.blocks) == len(model.blocks) == 4
