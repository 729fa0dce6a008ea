"""Slimmable networks: narrow networks inside a trunk, and a gate that picks the width."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import routing
from bench.check import CONTRACTS, Candidate
from bench.check.attempt import attempt
from bench.meters.flops.counter import count
from bench.types import Batch, Output, TaskSpec, Unsupported
from methods.backbone.mobilenet import MobileNetV1
from methods.backbone.msdnet import MSDNet
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.branches.slimmable import Slimmable, gate_loss, soft_loss
from methods.parts.widths.narrow_trunk import narrow
from methods.parts.widths.sliced_layers import Kept
from methods.trunk.conv import sample_flops

RESNET = ResNet([1, 1], [8, 16])
SIZE = {"dim": 16, "depth": 2, "num_heads": 2, "hidden_multiple": 2.0, "image_stride": 2}
FORMS = {
    "class token": Transformer(**SIZE, pool="class"),
    "llama": Transformer(
        **SIZE, positions="rotary", activation="swiglu", num_kv_heads=1, bias=False
    ),
}


def random_norms(model: nn.Module) -> nn.Module:
    """The model with batch norms that have seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize("backbone", [RESNET, *FORMS.values()], ids=["resnet", *FORMS])
@torch.no_grad()
def test_unused_weights_change_nothing(backbone, tiny_image) -> None:
    """NaN in every weight outside of the slices reaches no logit of the narrow network."""
    trunk = random_norms(backbone.build(tiny_image.spec))
    small, batch = narrow(trunk, 0.5), tiny_image.batch(3)
    before = small(batch).logits
    for layer in small.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.shape != _full(layer):
            _spoil(layer._full[0].weight, layer._rows, layer._columns)
    assert torch.equal(small(batch).logits, before)


def _full(layer: nn.Module) -> torch.Size:
    return layer._full[0].weight.shape if hasattr(layer, "_full") else layer.weight.shape


def _spoil(full: Tensor, rows: Kept, columns: Kept) -> None:
    """NaN everywhere but in the kept part."""
    spoilt = torch.ones(full.shape, dtype=torch.bool)
    kept = columns.cut(rows.cut(torch.arange(full.numel()).view(full.shape), 0), 1)
    spoilt.view(-1)[kept.flatten()] = False
    full.masked_fill_(spoilt, torch.nan)


@torch.no_grad()
def test_a_narrow_resnet_is_the_small_one_with_these_weights(tiny_image) -> None:
    """At width 1/2 the logits are those of a network of half the channels, given the slices."""
    spec, batch = tiny_image.spec, tiny_image.batch(3)
    trunk = random_norms(RESNET.build(spec))
    small, alone = narrow(trunk, 0.5), RESNET.narrowed(0.5).build(spec).eval()
    for name, layer in alone.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.copy_(small.get_submodule(name).weight)
            if layer.bias is not None:
                layer.bias.copy_(small.get_submodule(name).bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.load_state_dict(small.get_submodule(name).state_dict())
    torch.testing.assert_close(small(batch).logits, alone(batch).logits, atol=1e-5, rtol=1e-5)


def test_the_kept_part_of_an_axis() -> None:
    """Of rows 0..11 in 3 groups the first 2 of each are 0, 1, 4, 5, 8, 9."""
    rows = torch.arange(12.0)[:, None]
    assert Kept(2, 3).cut(rows, 0).flatten().tolist() == [0, 1, 4, 5, 8, 9]
    assert Kept(5).cut(rows, 0).flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backbone", [RESNET, *FORMS.values()], ids=["resnet", *FORMS])
@torch.no_grad()
def test_width_one_is_dense(backbone, tiny_image) -> None:
    """At the point of width 1.0 the logits are the dense model's, bit for bit."""
    dense, batch = random_norms(backbone.build(tiny_image.spec)), tiny_image.batch(3)
    method = Slimmable()
    model = method.convert(dense, []).eval()
    method.set_point(model, {"width": 1.0})
    assert torch.equal(model(batch).logits, dense(batch).logits)


def test_weights_are_stored_once(tiny_image) -> None:
    """A second width adds a gate and, in a convolutional trunk, its batch norms."""
    dense = RESNET.build(tiny_image.spec)
    model = Slimmable([0.5, 1.0], gate=False).convert(dense, [])
    # Norms of the narrow network: 3 of 4 channels (stem, first block), 2 of 8, a weight and a bias.
    added = 2 * (3 * 4 + 2 * 8)
    num = [sum(p.numel() for p in m.parameters()) for m in (dense, model)]
    assert num[1] - num[0] == added
    tokens = FORMS["llama"].build(tiny_image.spec)
    slim = Slimmable([0.5, 1.0], gate=False).convert(tokens, [])
    assert len(list(slim.parameters())) == len(list(tokens.parameters()))


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0])
def test_published_costs_of_resnet_50(width: float) -> None:
    """0.278, 1.1, 2.3 and 4.1 G MAC at 224 x 224 (Yu et al. 2019, Table 1)."""
    spec = TaskSpec("i", "image", (3, 224, 224), 1000)
    backbone = ResNet([3, 4, 6, 3], [64, 128, 256, 512], True, "large", "projection")
    with torch.device("meta"):
        trunk = backbone.build(spec)
    inputs = torch.empty(1, 3, 224, 224, device="meta")
    view = trunk if width == 1.0 else narrow(trunk, width)
    macs = count(view.eval(), Batch(inputs, inputs)).total / 2
    wanted = {0.25: 0.278e9, 0.5: 1.05e9, 0.75: 2.32e9, 1.0: 4.09e9}[width]
    assert macs == pytest.approx(wanted, rel=0.003)


def test_published_cost_of_half_a_mobilenet() -> None:
    """MobileNet V1 at width 0.5 has 150 M MAC (published), 149.5 M by counting its layers."""
    spec = TaskSpec("i", "image", (3, 224, 224), 1000)
    with torch.device("meta"):
        trunk = MobileNetV1().build(spec)
    inputs = torch.empty(1, 3, 224, 224, device="meta")
    macs = count(narrow(trunk, 0.5).eval(), Batch(inputs, inputs)).total / 2
    assert round(macs / 1e5) == 1495
    assert macs * 2 == sample_flops(MobileNetV1(0.5), spec)


@torch.no_grad()
def test_each_sample_gets_what_its_width_gives_alone(tiny_image) -> None:
    """In a batch of mixed widths every sample has the logits of the fixed width that it took."""
    method, batch = Slimmable(), tiny_image.batch(8)
    model = random_norms(method.build(tiny_image.spec, RESNET))
    generator = torch.Generator().manual_seed(1)
    with routing.force("random", share=0.5, generator=generator), routing.observe() as seen:
        mixed = model(batch).logits
    taken = seen.decisions[0].run.int().argmax(1)
    assert len(taken.unique()) > 2
    for number, width in enumerate(method.widths):
        method.set_point(model, {"width": width})
        fixed = model(batch).logits
        rows = taken == number
        torch.testing.assert_close(mixed[rows], fixed[rows], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_budgets_are_kept_and_spent(tiny_image) -> None:
    """On the calibration data the mean share is within each budget, and grows with it."""
    method = Slimmable(budgets=[0.5, 0.8])
    model = random_norms(method.build(tiny_image.spec, RESNET))
    nn.init.normal_(model.gate[-1].weight, std=2.0)
    batches = [tiny_image.batch(32, seed) for seed in range(3)]
    method.calibrate(model, batches)
    shares = torch.tensor(model.choice.shares)
    spent = []
    for budget in method.budgets:
        method.set_point(model, {"width": f"gate {budget:g}"})
        with routing.observe() as seen:
            for batch in batches:
                model(batch)
        taken = torch.cat([decision.run for decision in seen.decisions])
        spent.append(float((taken.float() @ shares).mean()))
        assert spent[-1] <= budget
    assert spent[1] > spent[0] > 0.3


def test_the_sandwich_runs_narrowest_widest_and_some_between(tiny_image) -> None:
    """Of five widths with one drawn, a step runs the first, the last and one other."""
    method = Slimmable([0.25, 0.375, 0.5, 0.75, 1.0], gate=False, num_random=1)
    model = method.build(tiny_image.spec, RESNET).train()
    for _ in range(3):
        found = model(tiny_image.batch(4)).stats["widths"]
        assert len(found) == 3
        assert {0, 4} < set(found)


def test_narrow_networks_learn_what_the_widest_answers() -> None:
    """-0.5 ln 0.25 - 0.5 ln 0.75 for two classes; without a target a position does not count."""
    teacher, logits = torch.zeros(1, 2), torch.tensor([[0.25, 0.75]]).log()
    batch = Batch(torch.zeros(1), torch.tensor([0]))
    wanted = -0.5 * (torch.tensor(0.25).log() + torch.tensor(0.75).log())
    torch.testing.assert_close(soft_loss(logits, teacher, batch), wanted)
    text = Batch(torch.zeros(1, 2), torch.tensor([[1, -100]]))
    pair = torch.stack([logits, torch.tensor([[9.0, -9.0]])], 1)  # [1, 2, 2]
    torch.testing.assert_close(soft_loss(pair, torch.zeros(1, 2, 2), text), wanted)


def test_the_gates_label_is_the_narrowest_width_that_is_right() -> None:
    """Right from width 0, from width 2 and never: labels 0, 2 and 0."""
    targets = torch.tensor([1, 1, 1])
    right, wrong = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    found = {0: torch.stack([right, wrong, wrong]), 2: torch.stack([right, right, wrong])}
    belief = torch.randn(3, 3)
    wanted = F.cross_entropy(belief, torch.tensor([0, 2, 0]))
    torch.testing.assert_close(gate_loss(belief, found, Batch(torch.zeros(3), targets)), wanted)


def test_the_gates_loss_reaches_the_gate_alone(tiny_image) -> None:
    """The network is trained as without a gate: its gradients are equal."""
    gradients = []
    for gate in (True, False):
        torch.manual_seed(0)
        trunk = RESNET.build(tiny_image.spec)
        method = Slimmable(gate=gate)
        model = method.convert(trunk, []).train()
        batch = tiny_image.batch(6)

        def criterion(output: Output, batch: Batch) -> Tensor:
            return F.cross_entropy(output.logits, batch.targets)

        method.loss(model, batch, criterion, 0.5).backward()
        gradients.append([p.grad for p in model.trunk.parameters()])
        if gate:
            assert all(p.grad.abs().sum() > 0 for p in model.gate.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_other_transformers_keep_every_contract(form: str, tiny_image) -> None:
    """A class token; rotary positions, gated layers and shared keys and values."""
    candidate = Candidate("slimmable", Slimmable([0.5, 1.0]), tiny_image, FORMS[form])
    findings = [attempt(contract, candidate) for contract in CONTRACTS]
    assert [(f.contract, f.message) for f in findings if f.outcome == "broken"] == []


def test_fixed_widths_serve_language_models(tiny_text) -> None:
    """Without a gate a causal model generates at every width what its own pass predicts."""
    method = Slimmable([0.5, 1.0], gate=False)
    candidate = Candidate("slimmable", method, tiny_text, tiny_text.backbone)
    findings = [attempt(contract, candidate) for contract in CONTRACTS]
    assert [(f.contract, f.message) for f in findings if f.outcome == "broken"] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [0.25, 0.5]}, "increase to 1.0"),
        ({"widths": [0.5, 0.25, 1.0]}, "increase to 1.0"),
        ({"widths": [1.0]}, "two or more"),
    ],
)
def test_widths_without_a_choice_are_refused(settings, message: str) -> None:
    """Widths increase to 1.0, and there are two."""
    with pytest.raises(ValueError, match=message):
        Slimmable(**settings)


def test_what_does_not_fit_is_refused_with_the_reason(tiny_image, tiny_text) -> None:
    """Odd heads, a causal gate, joined scales, a late gate, a budget that cannot be kept."""
    spec = tiny_image.spec
    with pytest.raises(Unsupported, match=r"width 0.3 of heads with 8 channels"):
        Slimmable([0.3, 1.0]).build(spec, tiny_image.backbone)
    with pytest.raises(Unsupported, match="not causal"):
        Slimmable().build(tiny_text.spec, tiny_text.backbone)
    with pytest.raises(Unsupported, match="several scales"):
        Slimmable().build(spec, MSDNet(layers=[1, 1, 2, 2], width=4, growth=4, head_width=8))
    with pytest.raises(ValueError, match="gate_depth=2 leaves none of 2 blocks"):
        Slimmable(gate_depth=2).build(spec, RESNET)
    with pytest.raises(ValueError, match=r"budget 0.01 cannot be kept"):
        Slimmable(budgets=[0.01]).build(spec, RESNET)
