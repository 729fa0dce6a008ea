"""Methods on convolutional backbones: they work, or raise Unsupported with the reason."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from bench import routing
from bench.meters.flops.counter import count
from bench.plugins.hooks import resolve
from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.mobilenet import MobileNetV1, MobileNetV2
from methods.backbone.msdnet import MSDNet
from methods.backbone.res15 import Res15
from methods.backbone.resnet import ResNet
from methods.controls.shrunk_dense import ShrunkDense
from methods.skipping.early_exit import EarlyExit
from methods.trunk.conv import sample_flops

SPEC = TaskSpec("i", "image", (3, 16, 16), 5)
RESNET = ResNet([2, 2], [8, 16])
MSDNET = MSDNet(layers=[1, 1, 2, 2], width=4, growth=4, head_width=8)
DOORS = {d.name: d for d in entry_points(group="condbench.methods") if d.value[:8] == "methods."}
NEED_FEED_FORWARD = {
    *("branches", "deepseek_moe", "expert_choice", "moe", "moe_vision", "soft_moe", "topk_ffn"),
}


def _batch(num_samples: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num_samples, *SPEC.input_shape, generator=generator)
    return Batch(inputs, torch.randint(5, (num_samples,), generator=generator))


def _build_model(method, backbone) -> nn.Module:
    """The method's model, from a dense one where it starts there."""
    hooks = resolve(method).hooks
    if hooks.convert is not None:
        return hooks.convert(backbone.build(SPEC).eval(), [_batch(4)]).eval()
    return hooks.build(SPEC, backbone).eval()


def _refusal(method, backbone) -> str | None:
    """Why the method cannot work on the backbone; None where it can."""
    try:
        _build_model(method, backbone)
    except Unsupported as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("backbone", [RESNET, MSDNET], ids=["resnet", "msdnet"])
@pytest.mark.parametrize("name", DOORS)
def test_a_method_works_or_says_why_not(name: str, backbone) -> None:
    """Every built-in method returns logits for images, or raises Unsupported with a reason."""
    method = DOORS[name].load()()
    if reason := _refusal(method, backbone):
        assert len(reason.split()) > 3
        return
    model = _build_model(method, backbone)
    with torch.no_grad():
        logits = model(_batch(3)).logits
    assert logits.shape == (3, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", sorted(NEED_FEED_FORWARD))
def test_without_feed_forward_layers_there_is_nothing_to_replace(name: str) -> None:
    """Methods that replace feed-forward layers raise instead of leaving the network dense."""
    with pytest.raises(Unsupported, match="feed-forward"):
        _build_model(DOORS[name].load()(), RESNET)


def test_maps_are_no_tokens_to_pick() -> None:
    """Mixture-of-Depths refuses maps."""
    with pytest.raises(Unsupported, match="tokens"):
        _build_model(DOORS["mixture_of_depths"].load()(), RESNET)


def _exits(backbone) -> nn.Module:
    """An early-exit model with heads that disagree; half leave at its first exit."""
    torch.manual_seed(1)
    model = EarlyExit(every=1).build(SPEC, backbone)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    for head in [*model.heads, model.trunk.head]:
        nn.init.normal_(head.linear.weight, std=2.0)
    model.eval()
    sure = model.confidences(_batch(12))[0].sort().values
    model.threshold.fill_(sure[5:7].mean().item())
    return model


@pytest.mark.parametrize("backbone", [RESNET, MSDNET], ids=["resnet", "msdnet"])
class TestEarlyExit:
    """Samples leave a convolutional trunk as they leave a transformer."""

    @torch.no_grad()
    def test_batches_shrink(self, backbone) -> None:
        """The compacted batch gives every sample what it gets alone, and some have left."""
        model, batch = _exits(backbone), _batch(12)
        with routing.observe() as seen:
            together = model(batch).logits
        assert 0 < seen.decisions[0].run.sum() < 12
        alone = [model(batch.select(torch.tensor([i]))).logits for i in range(12)]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_declared_flops_are_the_executed_ones(self, backbone) -> None:
        """What the decisions cost, on top of leaving at the first head, is exact to the unit."""
        model, batch = _exits(backbone), _batch(12)
        with routing.observe() as seen:
            executed = count(model, batch).total
        with routing.force("closed"):
            least = count(model, batch).total
        assert executed - least == seen.declared_flops() > 0

    @torch.no_grad()
    def test_skipping_equals_masking(self, backbone) -> None:
        """With replayed decisions the training path gives the same logits.

        Batch norms stay as at inference: their training mode computes something else.
        """
        model, batch = _exits(backbone), _batch(12)
        with routing.observe() as seen:
            skipped = model(batch).logits
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        with routing.replay(seen):
            masked = model(batch).logits
        torch.testing.assert_close(skipped, masked, atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_open_gates_are_the_dense_model(self, backbone) -> None:
        """When no sample leaves, the logits are the dense trunk's, bit for bit."""
        dense = backbone.build(SPEC).eval()
        model = EarlyExit(every=1).convert(dense, [_batch(4)]).eval()
        with routing.force("open"):
            opened = model(_batch(5)).logits
        assert torch.equal(opened, dense(_batch(5)).logits)

    def test_a_training_step_reaches_every_head(self, backbone) -> None:
        """Every exit's head and the stem get a gradient."""
        model, method = EarlyExit(every=1).build(SPEC, backbone).train(), EarlyExit(every=1)

        def criterion(output, batch):
            return nn.functional.cross_entropy(output.logits, batch.targets)

        method.loss(model, _batch(8), criterion, 0.5).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all(head.linear.weight.grad.abs().sum() > 0 for head in model.heads)


@pytest.mark.parametrize(
    "backbone",
    [ResNet(), Res15(), MobileNetV1(), MobileNetV2()],
    ids=lambda b: type(b).__name__,
)
def test_the_shrunk_control_spends_half(backbone) -> None:
    """Fewer channels at the same depth: half of the FLOPs within 5 %."""
    small = ShrunkDense(0.5).shrink(SPEC, backbone)
    assert sample_flops(small, SPEC) / sample_flops(backbone, SPEC) == pytest.approx(0.5, rel=0.05)


def test_a_share_that_channels_cannot_make_is_refused() -> None:
    """One channel everywhere still spends more than a ten-thousandth of ResNet-20."""
    with pytest.raises(Unsupported, match=r"share=0\.0001"):
        ShrunkDense(0.0001).shrink(SPEC, ResNet())


def test_msdnet_has_no_channels_to_drop() -> None:
    """Its few new channels per layer cannot be scaled: refused with the reason."""
    with pytest.raises(Unsupported, match="MSDNet"):
        ShrunkDense(0.5).shrink(SPEC, MSDNET)
