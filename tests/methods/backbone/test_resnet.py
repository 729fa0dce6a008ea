"""ResNets beside Hugging Face's, with equal weights."""

from __future__ import annotations

import pytest
import torch

from bench.types import Batch, TaskSpec
from methods.backbone.resnet import PadShortcut, ResNet
from tests.references.huggingface_resnet import resnet

SPEC = TaskSpec("i", "image", (3, 64, 64), 7)


@pytest.mark.parametrize(
    "settings",
    [{}, {"bottleneck": True}, {"bottleneck": True, "stride_in": "1x1"}],
    ids=["basic", "v1.5", "v1"],
)
def test_equals_huggingface(settings: dict) -> None:
    """With equal weights every block, and the whole model, gives what Hugging Face's gives."""
    backbone = ResNet([2, 1, 2], [8, 16, 24], stem="large", shortcut="projection", **settings)
    model, trunk = resnet(backbone, image_size=64, num_classes=7)
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
    for end, expected in zip(ends, theirs.hidden_states, strict=True):
        torch.testing.assert_close(found[end], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-5, rtol=1e-5)


def test_v1_and_v15_differ_in_the_stride_only() -> None:
    """The same weights fit both, and give other logits."""
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
        ({"blocks": [1, 0, 1]}, "blocks=0: must be at least 1"),
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
