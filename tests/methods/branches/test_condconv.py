"""CondConv: weights mixed for every sample, at a cost that does not fall."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.efficientnet import EfficientNet
from methods.backbone.mobilenet import MobileNetV2
from methods.backbone.res15 import Res15
from methods.backbone.resnet import ResNet
from methods.branches.condconv import CondConv, MixedBlock
from methods.parts.weights.mixed_layers import (
    MixedConv2d,
    MixedLinear,
    Mixture,
    convolve_grouped,
    convolve_in_turn,
)

CONVOLUTIONS = {
    "dense": nn.Conv2d(6, 4, 3, stride=2, padding=1),
    "pointwise": nn.Conv2d(6, 4, 1, stride=2, bias=False),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
}


def expert(layer: MixedConv2d, number: int, x: torch.Tensor) -> torch.Tensor:
    """One expert on all samples, without the shared bias."""
    weight = layer.experts[number].view(layer.shape)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@torch.no_grad()
def test_mixed_weights_are_the_sum_of_the_experts_outputs(kind: str) -> None:
    """sum_e r_e conv(x, W_e) in a batch, and for a sample alone."""
    mixture, x = Mixture(3), torch.randn(5, 6, 7, 7)
    layer = MixedConv2d(CONVOLUTIONS[kind], mixture)
    shares = torch.rand(5, 3)
    parts = [shares[:, e].view(-1, 1, 1, 1) * expert(layer, e, x) for e in range(3)]
    wanted = sum(parts) + (0 if layer.bias is None else layer.bias[:, None, None])
    mixture.shares = shares
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    mixture.shares = shares[2:3]
    torch.testing.assert_close(layer(x[2:3]), wanted[2:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@torch.no_grad()
def test_one_hot_shares_are_that_expert(kind: str) -> None:
    """Sample b runs expert b alone."""
    mixture, x = Mixture(3), torch.randn(3, 6, 7, 7)
    layer = MixedConv2d(CONVOLUTIONS[kind], mixture)
    mixture.shares = torch.eye(3)
    bias = 0 if layer.bias is None else layer.bias[:, None, None]
    wanted = torch.cat([expert(layer, b, x[b : b + 1]) for b in range(3)]) + bias
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@torch.no_grad()
def test_one_grouped_convolution_equals_samples_in_turn(kind: str) -> None:
    """On a GPU the samples are groups of one convolution, on a CPU they run one after another."""
    old = CONVOLUTIONS[kind]
    settings = {k: getattr(old, k) for k in ("stride", "padding", "dilation", "groups")}
    x, weights = torch.randn(4, 6, 7, 7), torch.randn(4, *old.weight.shape)
    grouped, turns = (f(x, weights, settings) for f in (convolve_grouped, convolve_in_turn))
    torch.testing.assert_close(grouped, turns, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_mixed_linear_layers_by_hand() -> None:
    """Experts 1 and 10 at shares (1, 0) and (0.5, 0.5) weigh by 1 and 5.5; the bias is shared."""
    old, mixture = nn.Linear(1, 1), Mixture(2)
    old.bias.fill_(2.0)
    layer = MixedLinear(old, mixture)
    layer.experts.copy_(torch.tensor([[1.0], [10.0]]))
    mixture.shares = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    found = layer(torch.tensor([[[3.0]], [[4.0]]]))
    assert found.flatten().tolist() == [5.0, 24.0]


@pytest.mark.parametrize(
    ("num_experts", "num_parameters", "macs"),
    [(4, 13_314_116, 396_513_888), (8, 24_013_284, 407_213_024)],
)
def test_published_sizes_of_efficientnet(num_experts: int, num_parameters: int, macs: int) -> None:
    """EffNet-CondConv-B0: 13.3 and 24.0 M parameters, 10.7 and 21.4 M MAC above 385.8 M.

    Published with a constant of 5 M for other operations: 391 -> 402 and 413 M.
    """
    spec = TaskSpec("i", "image", (3, 224, 224), 1000)
    with torch.device("meta"):
        model = CondConv(num_experts).build(spec, EfficientNet()).eval()
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    inputs = torch.empty(1, 3, 224, 224, device="meta")
    assert count(model, Batch(inputs, inputs)).total == 2 * macs


@pytest.mark.parametrize(
    "backbone",
    [ResNet([1, 1], [8, 16]), MobileNetV2(0.25, 1), Res15(8, 2)],
    ids=lambda backbone: type(backbone).__name__,
)
@torch.no_grad()
def test_nothing_is_skipped(backbone, tiny_image) -> None:
    """The whole costs more than dense, by the weights that are mixed and the routers."""
    batch, spec = tiny_image.batch(2), tiny_image.spec
    model, dense = CondConv(4).build(spec, backbone).eval(), backbone.build(spec).eval()
    extra = 0
    for module in model.modules():
        if isinstance(module, MixedConv2d):
            extra += 2 * 2 * module.experts.numel()  # two samples, 2 FLOPs per weight
        if isinstance(module, MixedBlock):
            extra += 2 * 2 * module.router.linear.weight.numel()
    assert extra > 0
    assert count(model, batch).total - count(dense, batch).total == extra


@torch.no_grad()
def test_shares_are_announced_and_cannot_be_forced(tiny) -> None:
    """Every router shows its weights, of which forcing changes none."""
    if tiny.spec.causal:
        with pytest.raises(Unsupported, match="not causal"):
            CondConv().build(tiny.spec, tiny.backbone)
        return
    model, batch = CondConv(2).build(tiny.spec, tiny.backbone).eval(), tiny.batch(3)
    logits = model(batch).logits
    with routing.force("closed"), routing.observe() as seen:
        assert torch.equal(model(batch).logits, logits)
    # The last two of four blocks.
    assert [d.name for d in seen.decisions] == ["mix2", "mix3"]
    assert all(d.observed_only and d.probabilities.shape == (3, 2) for d in seen.decisions)


def test_mixed_weights_begin_as_large_as_dense_ones() -> None:
    """At shares of 1/2 they have the dense layer's root mean square, within 5 %."""
    old, mixture = nn.Conv2d(64, 64, 3), Mixture(8)
    layer = MixedConv2d(old, mixture)
    mixture.shares = torch.full((1, 8), 0.5)
    mixed = mixture.mix(layer.experts, layer.shape)
    ratio = mixed.square().mean() / old.weight.square().mean()
    assert ratio.sqrt().item() == pytest.approx(1, rel=0.05)
