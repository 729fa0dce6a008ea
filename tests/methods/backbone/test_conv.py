"""Convolutional backbones as trunks, on small images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.efficientnet import EfficientNet, SqueezeExcite
from methods.backbone.mobilenet import MobileNetV1, MobileNetV2
from methods.backbone.msdnet import MSDNet
from methods.backbone.res15 import DilatedBlock, DilatedLayer, Res15
from methods.backbone.resnet import ResNet
from methods.trunk.conv import kept_strides
from methods.trunk.costs import layer_flops
from methods.trunk.inverted import InvertedResidual, in_eights
from methods.trunk.state import State

SPEC = TaskSpec("i", "image", (3, 16, 16), 5)
FAMILIES = {
    "resnet": ResNet([1, 2], [8, 16]),
    "bottleneck": ResNet([1, 1], [4, 8], bottleneck=True, stem="large", shortcut="projection"),
    "res15": Res15(width=6, num_blocks=2),
    "mobilenet_v1": MobileNetV1(width=0.125, num_halvings=3),
    "mobilenet_v2": MobileNetV2(width=0.125, num_halvings=3),
    "efficientnet": EfficientNet(width=0.125, num_halvings=3),
    "msdnet": MSDNet(layers=[1, 2, 1, 2], width=4, growth=4, head_width=8),
}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest):
    """A small network of each family."""
    return FAMILIES[request.param]


def _batch(num_samples: int, *shape: int) -> Batch:
    return Batch(torch.randn(num_samples, *shape), torch.zeros(num_samples, dtype=torch.long))


def _trunk(backbone, spec: TaskSpec = SPEC):
    """The trunk with batch norms that are not the identity, in inference mode."""
    trunk = backbone.build(spec)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return trunk.eval()


@torch.no_grad()
def test_a_trunk_is_stem_blocks_and_head(backbone) -> None:
    """Driving the parts one by one gives the logits of the whole, one row per sample."""
    trunk, batch = _trunk(backbone), _batch(3, 3, 16, 16)
    state = trunk.stem(batch)
    for block in trunk.blocks:
        state = block(state)
    logits = trunk(batch).logits
    assert logits.shape == (3, 5)
    assert torch.equal(trunk.head(state), logits)


@torch.no_grad()
def test_samples_can_leave_anywhere(backbone) -> None:
    """After any block, continuing with some samples gives them their results of the whole batch."""
    trunk, batch = _trunk(backbone), _batch(4, 3, 16, 16)
    expected, state = trunk(batch).logits, trunk.stem(batch)
    rows = torch.tensor([2, 0])
    for begin in range(len(trunk.blocks) + 1):
        left = state.select(rows)
        assert left.index.tolist() == [2, 0]
        for block in trunk.blocks[begin:]:
            left = block(left)
        torch.testing.assert_close(trunk.head(left), expected[rows], atol=1e-5, rtol=1e-4)
        state = trunk.blocks[begin](state) if begin < len(trunk.blocks) else state


@torch.no_grad()
def test_blocks_leave_their_input_as_it_was(backbone) -> None:
    """An exit may still read a state after the next block has run: nothing is changed in place."""
    trunk = _trunk(backbone)
    state = trunk.stem(_batch(2, 3, 16, 16))
    for block in trunk.blocks:
        before, kept = state, state.x.clone()
        state = block(state)
        assert torch.equal(before.x, kept)


@torch.no_grad()
def test_a_head_fits_after_every_block(backbone) -> None:
    """`new_head(n)` fits the maps after n blocks; without n those after all."""
    trunk = _trunk(backbone)
    state = trunk.stem(_batch(2, 3, 16, 16))
    for number, block in enumerate(trunk.blocks, start=1):
        state = block(state)
        assert trunk.new_head(number).eval()(state).shape == (2, 5)
    assert trunk.new_head().eval()(state).shape == (2, 5)


@torch.no_grad()
def test_maps_stay_channels_last(backbone) -> None:
    """The layout that is fast is kept from the stem to the last block, new heads included."""
    trunk = _trunk(backbone)
    state = trunk.stem(_batch(2, 3, 16, 16))
    layouts = [state.x]
    for block in trunk.blocks:
        state = block(state)
        layouts.append(state.x)
    wide = [x for x in layouts if x.shape[2] * x.shape[3] > 1 and x.shape[1] > 1]
    assert wide
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in wide)
    weights = [p for p in trunk.new_head(1).parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@torch.no_grad()
def test_the_layers_flops_are_the_counted_ones(backbone) -> None:
    """Output shapes times weights give what the meter counts, also without data."""
    for device in ("cpu", "meta"):
        trunk = _trunk(backbone).to(device)
        batch = _batch(2, 3, 16, 16).to(device)
        with layer_flops(trunk) as calls:
            counted = count(trunk, batch, strict=True)
        assert sum(calls) == counted.total


@torch.no_grad()
def test_spectrograms_are_maps_of_one_channel(backbone) -> None:
    """Recordings [B, mels, frames] of another shape get one row of logits each."""
    trunk = _trunk(backbone, TaskSpec("a", "audio", (20, 25), 6))
    assert trunk(_batch(2, 20, 25)).logits.shape == (2, 6)


def test_blocks_can_be_replaced(backbone) -> None:
    """`block(index, make)` stands in for every block; `make()` gives the dense one."""
    kinds = {type(block) for block in backbone.build(SPEC).blocks}
    wrapped = backbone.build(SPEC, block=lambda i, make: make() if i else nn.Identity())
    assert isinstance(wrapped.blocks[0], nn.Identity)
    assert {type(block) for block in wrapped.blocks[1:]} <= kinds


@pytest.mark.parametrize("part", ["ffn", "attention"])
def test_there_are_no_token_layers_to_replace(backbone, part: str) -> None:
    """Factories for layers that the family does not have are refused by name."""
    with pytest.raises(Unsupported, match="feed-forward" if part == "ffn" else "attention"):
        backbone.build(SPEC, **{part: lambda *sizes, **more: nn.Identity()})


@pytest.mark.parametrize("kind", ["tokens", "seq2seq"])
def test_text_is_refused(backbone, kind) -> None:
    """Texts are no maps."""
    with pytest.raises(Unsupported, match=kind):
        backbone.build(TaskSpec("t", kind, (8,), 3, vocab_size=5, target_length=8))


def test_the_state_is_not_tokens(backbone) -> None:
    """A method that picks tokens can see that there are none."""
    assert backbone.build(SPEC).tokens is False


def test_training_reaches_every_weight(backbone) -> None:
    """Every parameter gets a finite gradient."""
    trunk, batch = backbone.build(SPEC).train(), _batch(8, 3, 16, 16)
    trunk(batch).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())


@torch.no_grad()
def test_shortcuts_of_inverted_bottlenecks() -> None:
    """With a silent last layer a block passes its input on, but not where the shape changes."""
    x = torch.randn(2, 8, 6, 6)
    for outputs, stride, passes in ((8, 1, True), (8, 2, False), (16, 1, False)):
        block = InvertedResidual(
            8, outputs, expansion=2, kernel=3, stride=stride, activation=nn.ReLU
        ).eval()
        nn.init.zeros_(block.layers[-1][0].weight)
        assert torch.equal(block(x), x) is passes


@torch.no_grad()
def test_squeeze_and_excitation_by_hand() -> None:
    """Channel 0's mean, 2, decides about both channels: silu(2) = 2 / (1 + e^-2) = 1.7616.

    Channel 0 is multiplied by sigmoid(1.7616) = 0.85343, channel 1 by sigmoid(0) = 1/2.
    """
    layer = SqueezeExcite(4, 2)  # a quarter of four inputs: one squeezed channel
    layer.squeeze.weight.copy_(torch.tensor([[1.0, 0.0]]))
    layer.excite.weight.copy_(torch.tensor([[1.0], [0.0]]))
    layer.squeeze.bias.zero_()
    layer.excite.bias.zero_()
    x = torch.tensor([[[[1.0, 3.0]], [[5.0, 7.0]]]])  # [1, 2, 1, 2]
    expected = torch.tensor([[[[0.85343, 2.56029]], [[2.5, 3.5]]]])
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_dilated_block_adds_behind_the_second_relu() -> None:
    """With convolutions that return 0, the result is norm(0 + x) = x / sqrt(1 + 1e-5)."""
    block = DilatedBlock(DilatedLayer(3, 1), DilatedLayer(3, 2)).eval()
    for layer in (block.first, block.second):
        nn.init.zeros_(layer.conv.weight)
    x = torch.randn(2, 3, 7, 7)  # negative values too: no activation follows the sum
    torch.testing.assert_close(block(State(x)).x, x / (1 + 1e-5) ** 0.5)


def test_res15_dilations_double_every_third_layer() -> None:
    """Thirteen layers: 1 1 1 2 2 2 4 4 4 8 8 8 16."""
    trunk = Res15(width=4).build(SPEC)
    layers = [m.conv for m in trunk.blocks.modules() if isinstance(m, DilatedLayer)]
    assert [c.dilation[0] for c in layers] == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16]


@pytest.mark.parametrize(
    ("num_halvings", "expected"), [(3, [2, 1, 2, 2]), (2, [1, 1, 2, 2]), (0, [1, 1, 1, 1])]
)
def test_the_last_strides_are_kept(num_halvings: int, expected: list[int]) -> None:
    """Fewer halvings leave out the earliest ones."""
    assert kept_strides([2, 1, 2, 2], num_halvings) == expected


@pytest.mark.parametrize("family", [MobileNetV1, MobileNetV2, EfficientNet])
def test_a_network_without_channels_is_refused(family: type) -> None:
    """Nothing, or less than nothing, of every layer's channels."""
    for width in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"width={width}: must be above 0"):
            family(width=width)
    with pytest.raises(ValueError, match="num_halvings=-1: must be at least 0 and at most 5"):
        family(num_halvings=-1)


def test_more_halvings_than_there_are_are_refused() -> None:
    """Three strides of 2 cannot halve four times."""
    with pytest.raises(ValueError, match="one of 0 to 3, not 4"):
        kept_strides([2, 1, 2, 2], 4)


@pytest.mark.parametrize(
    ("channels", "expected"), [(32, 32), (3, 8), (12, 16), (11.9, 16), (36, 40), (18, 24), (8.8, 8)]
)
def test_channels_in_eights(channels: float, expected: int) -> None:
    """The nearest multiple of 8 unless that loses more than a tenth.

    11.9 rounds to 8, less than 0.9 x 11.9 = 10.71: 16. 18 rounds to 16 < 16.2: 24. 8.8: 8 > 7.92.
    """
    assert in_eights(channels) == expected
