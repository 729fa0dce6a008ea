"""ResNets beside Hugging Face's, with equal weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from bench.types import Batch, TaskSpec
from methods.backbone.conv import ConvTrunk
from methods.backbone.resnet import PadShortcut, ResNet

SPEC = TaskSpec("i", "image", (3, 64, 64), 7)


def _huggingface(backbone: ResNet) -> nn.Module:
    """Their model of the same dimensions."""
    outputs = [width * (4 if backbone.bottleneck else 1) for width in backbone.widths]
    config = transformers.ResNetConfig(
        embedding_size=backbone.widths[0],
        hidden_sizes=outputs,
        depths=backbone.blocks,
        layer_type="bottleneck" if backbone.bottleneck else "basic",
        downsample_in_bottleneck=backbone.stride_in == "1x1",
        num_labels=SPEC.num_outputs,
    )
    return transformers.ResNetForImageClassification(config)


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Weights and statistics of `theirs` into `ours`, in order; raises where shapes differ."""
    names, values = list(ours.state_dict()), list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(names, values, strict=True)))


def _with_their_weights(trunk: ConvTrunk, model: nn.Module) -> ConvTrunk:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics would hide a wrong order
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    _copy(trunk.stem, model.resnet.embedder)
    layers = [layer for stage in model.resnet.encoder.stages for layer in stage.layers]
    for block, layer in zip(trunk.blocks, layers, strict=True):
        _copy(block.layers, layer.layer)
        _copy(block.shortcut, layer.shortcut)
    _copy(trunk.head.linear, model.classifier[1])
    return trunk.eval()


@pytest.mark.parametrize(
    "settings",
    [{}, {"bottleneck": True}, {"bottleneck": True, "stride_in": "1x1"}],
    ids=["basic", "v1.5", "v1"],
)
def test_equals_huggingface(settings: dict) -> None:
    """With equal weights every block, and the whole model, gives what Hugging Face's gives."""
    backbone = ResNet([2, 1, 2], [8, 16, 24], stem="large", shortcut="projection", **settings)
    model = _huggingface(backbone).eval()
    trunk = _with_their_weights(backbone.build(SPEC), model)
    images = torch.randn(3, *SPEC.input_shape)
    with torch.no_grad():
        theirs = model(images, output_hidden_states=True)
        state = trunk.stem(Batch(images, images))
        found = [state.x]
        for block in trunk.blocks:
            state = block(state)
            found.append(state.x)
        logits = trunk(Batch(images, images)).logits
    ends = (0, 2, 3, 5)  # blocks run at the end of the stem and of each stage
    for end, wanted in zip(ends, theirs.hidden_states, strict=True):
        torch.testing.assert_close(found[end], wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-5, rtol=1e-5)


def test_v1_and_v15_differ_in_the_stride_only() -> None:
    """The same weights fit both, and give other answers."""
    settings = {"bottleneck": True, "shortcut": "projection"}
    one = ResNet([1, 1], [4, 8], stride_in="1x1", **settings).build(SPEC).eval()
    two = ResNet([1, 1], [4, 8], stride_in="3x3", **settings).build(SPEC).eval()
    two.load_state_dict(one.state_dict())
    images = torch.randn(2, *SPEC.input_shape)
    assert not torch.allclose(one(Batch(images, images)).logits, two(Batch(images, images)).logits)


def test_padding_shortcut_by_hand() -> None:
    """Every second place of one channel, between one new channel in front and two behind."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    y = PadShortcut(1, 4, stride=2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert y[0, 1].tolist() == [[0.0, 2.0], [6.0, 8.0]]
    assert y[0, [0, 2, 3]].abs().sum() == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"blocks": [1, 1]}, "per stage"),
        ({"blocks": [1, 0, 1]}, "per stage"),
        ({"stem": "medium"}, "medium"),
        ({"shortcut": "none"}, "none"),
        ({"stride_in": "5x5"}, "5x5"),
        ({"widths": [16, 8, 32]}, "drop"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict, reason: str) -> None:
    """What cannot be built is refused before anything is."""
    with pytest.raises(ValueError, match=reason):
        ResNet(**settings)
