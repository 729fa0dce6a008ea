"""Adaptive resolution: a cascade that stops when it is sure, and a policy that picks a size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.check import CONTRACTS, Candidate
from bench.check.attempt import attempt
from bench.meters.flops.counter import count
from bench.types import Output, TaskSpec, Unsupported
from methods.backbone.efficientnet import EfficientNet
from methods.backbone.mobilenet import MobileNetV1
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.branches.resolution import Resolution
from methods.parts.exits.model import confidence
from methods.parts.sizes.image_sizes import at_sizes, resized, scaled

RESNET = ResNet([1, 1], [8, 16])
SIZE = {"dim": 16, "depth": 2, "num_heads": 2, "hidden_multiple": 2.0, "image_stride": 2}
PATCHES = Transformer(**SIZE, pool="class", stem="patch")
BACKBONES = {"mean": Transformer(**SIZE), "class": PATCHES, "resnet": RESNET}


def unsure(model: nn.Module) -> nn.Module:
    """The model with heads that answer differently from sample to sample."""
    for view in model.views:
        nn.init.normal_(view.head.linear.weight, std=2.0)
    return model.eval()


def test_sizes_are_whole_patches() -> None:
    """0.7 of 224 are 156.8 pixels, of which patches of 16 give 160, as in the paper: 10 x 10."""
    spec = TaskSpec("i", "image", (3, 224, 224), 10)
    assert scaled(spec, 16, 0.7) == (160, 160)
    assert scaled(spec, 1, 0.5) == (112, 112)
    with pytest.raises(Unsupported, match="below one patch of 16 x 16"):
        scaled(spec, 16, 0.05)


def test_positions_are_interpolated_and_the_class_tokens_stays() -> None:
    """Of a 2 x 2 grid 1, 2, 3, 4 one place remains: the mean 2.5, behind the class token's 9."""
    table = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0])[:, None]
    assert resized(table, (2, 2), (1, 1)).flatten().tolist() == [9.0, 2.5]
    assert torch.equal(resized(table, (2, 2), (2, 2)), table)


@torch.no_grad()
def test_a_smaller_view_is_the_trunk_on_averaged_pixels(tiny_image) -> None:
    """Without positions, its logits are those of the trunk for the averaged image."""
    trunk = ResNet([1, 1], [8, 16]).build(tiny_image.spec).eval()
    small, _ = at_sizes(trunk, [0.5, 1.0])
    batch = tiny_image.batch(3)
    averaged = batch.map(lambda x: F.avg_pool2d(x, 2) if x.dim() == 4 else x)
    torch.testing.assert_close(small(batch).logits, trunk(averaged).logits)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_samples_stop_at_the_first_sure_answer(name: str, tiny_image) -> None:
    """By hand: of each sample the logits of the first size whose confidence reaches the threshold.

    Features are reused, and everything is computed without compaction.
    """
    model = unsure(Resolution([0.5, 0.75, 1.0]).build(tiny_image.spec, BACKBONES[name]))
    for reuse in model.reuse:
        for layer in reuse.expand:
            nn.init.normal_(layer.weight, std=0.1)
    batch, state, exits = tiny_image.batch(12), None, []
    for number, view in enumerate(model.views):
        state = model._pass(number, batch, state)
        exits.append(view.head(state))
    sure = torch.stack([confidence(logits) for logits in exits])
    model.threshold.fill_(sure[0].sort().values[5:7].mean())
    first = (sure >= model.threshold).int()
    first[-1] = 1  # the last size always answers
    wanted = torch.stack(exits)[first.argmax(0), torch.arange(12)]
    with routing.observe() as seen:
        found = model(batch).logits
    assert 0 < int(seen.decisions[0].run.sum()) < 12
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_features_are_reused(name: str, tiny_image) -> None:
    """Zero at first, so that the last pass is the dense model; trained weights change it."""
    dense = BACKBONES[name].build(tiny_image.spec).eval()
    model, batch = Resolution().convert(dense, []).eval(), tiny_image.batch(3)
    assert torch.equal(model(batch).logits, dense(batch).logits)
    nn.init.normal_(model.reuse[-1].expand[-1].weight)
    assert not torch.allclose(model(batch).logits, dense(batch).logits)


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_every_pass_costs_what_is_declared(name: str, tiny_image) -> None:
    """One sample that goes on twice executes the first pass and the declared costs, exactly."""
    model, batch = Resolution().build(tiny_image.spec, BACKBONES[name]).eval(), tiny_image.batch(1)
    with routing.force("open"), routing.observe() as seen:
        executed = count(model, batch).total
    assert executed == model.costs[0] + seen.declared_flops() == sum(model.costs)


@torch.no_grad()
def test_budgets_are_kept_on_the_calibration_data(tiny_image) -> None:
    """The executed share of the dense model's FLOPs stays within the budget."""
    method = Resolution([0.5, 1.0], budgets=[0.8, 0.5])
    model = unsure(method.build(tiny_image.spec, RESNET))
    batches = [tiny_image.batch(32, seed) for seed in range(3)]
    method.calibrate(model, batches)
    for budget in method.budgets:
        method.set_point(model, {"budget": budget})
        executed = sum(count(model, batch).total for batch in batches)
        assert 0.25 * 96 * model.dense_flops < executed <= budget * 96 * model.dense_flops


def test_the_policy_learns_by_the_task_and_by_the_price(tiny_image) -> None:
    """Its gradient is that of the criterion, and with a price also that of the expected FLOPs."""
    method = Resolution([0.5, 1.0], policy=True)
    model = method.build(tiny_image.spec, RESNET).train()

    def criterion(output: Output, batch) -> Tensor:
        return F.cross_entropy(output.logits, batch.targets)

    method.loss(model, tiny_image.batch(8), criterion, 0.5).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.policy.parameters())
    model.zero_grad()
    model.budget.weight.fill_(3.0)
    model(tiny_image.batch(8)).aux_loss.backward()
    gradient = model.policy.linear.bias.grad
    # More probability of the larger size costs more; the two sum to 0 behind a softmax.
    assert gradient[1] > 0
    torch.testing.assert_close(gradient.sum(), torch.tensor(0.0), atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_picked_size_is_that_fixed_size(tiny_image) -> None:
    """In a mixed batch every sample has the logits of the fixed size that was picked for it."""
    method, batch = Resolution(policy=True), tiny_image.batch(8)
    model = unsure(method.build(tiny_image.spec, BACKBONES["class"]))
    generator = torch.Generator().manual_seed(1)
    with routing.force("random", share=0.5, generator=generator), routing.observe() as seen:
        mixed = model(batch).logits
    taken = seen.decisions[0].run.int().argmax(1)
    assert len(taken.unique()) > 1
    for number, share in enumerate(method.resolutions):
        method.set_point(model, {"resolution": share})
        rows = taken == number
        torch.testing.assert_close(mixed[rows], model(batch).logits[rows], atol=1e-5, rtol=1e-5)


def test_a_class_token_with_patches_keeps_every_contract(tiny_image) -> None:
    """Positions are interpolated around the class token, which reads nothing."""
    assert broken(CONTRACTS, PATCHES, tiny_image) == []


@pytest.mark.parametrize(
    "backbone", [MobileNetV1(0.25, 1), EfficientNet(0.25, 1)], ids=["V1", "B0"]
)
def test_other_maps_are_skipped_as_declared(backbone, tiny_image) -> None:
    """Depthwise convolutions, squeeze-and-excitation."""
    chosen = [c for c in CONTRACTS if c.name in ("open_is_dense", "skipping_is_masking")]
    assert broken(chosen, backbone, tiny_image) == []


def broken(contracts, backbone, tiny) -> list[tuple[str, str]]:
    """Contracts that a cascade of two sizes breaks, with the message."""
    method = Resolution([0.5, 1.0], budgets=[0.7])
    candidate = Candidate("resolution", method, tiny, backbone)
    findings = [attempt(contract, candidate) for contract in contracts]
    assert any(finding.outcome == "kept" for finding in findings)
    return [(f.contract, f.message) for f in findings if f.outcome == "broken"]


@pytest.mark.parametrize("resolutions", [[1.0], [0.5, 0.75], [0.75, 0.5, 1.0]])
def test_resolutions_without_a_choice_are_refused(resolutions) -> None:
    """They increase to 1.0, and there are two."""
    with pytest.raises(ValueError, match=r"increasing to 1\.0"):
        Resolution(resolutions)


def test_what_does_not_fit_is_refused_with_the_reason(tiny_image, tiny_text) -> None:
    """Text, less than a patch, equal sizes, a budget that cannot be kept."""
    with pytest.raises(Unsupported, match="need images or spectrograms"):
        Resolution().build(tiny_text.spec, tiny_text.backbone)
    with pytest.raises(Unsupported, match="below one patch"):
        Resolution([0.1, 1.0]).build(tiny_image.spec, PATCHES)
    with pytest.raises(Unsupported, match="are the sizes"):
        Resolution([0.7, 0.75, 1.0]).build(tiny_image.spec, PATCHES)
    with pytest.raises(ValueError, match=r"budget 0.1 cannot be kept"):
        Resolution(budgets=[0.1]).build(tiny_image.spec, RESNET)
