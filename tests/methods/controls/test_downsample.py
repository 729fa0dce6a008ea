"""The dense model on smaller images."""

from __future__ import annotations

import pytest
import torch

from bench.meters.flops.counter import count
from bench.plugins import construct
from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.controls.downsample import Downsample, smaller

PATCHES = Transformer(dim=16, depth=4, num_heads=2, stem="patch", image_stride=2, pool="class")


@pytest.mark.parametrize("backbone", [None, PATCHES, ResNet([1], [8])], ids=["conv", "vit", "cnn"])
def test_the_whole_resolution_is_dense(backbone, tiny_image) -> None:
    """resolution = 1 builds the very trunk that the backbone builds from the same seed."""
    backbone = backbone or tiny_image.backbone
    torch.manual_seed(3)
    mine = Downsample(1.0).build(tiny_image.spec, backbone).eval()
    torch.manual_seed(3)
    dense = backbone.build(tiny_image.spec).eval()
    assert torch.equal(mine(tiny_image.batch(2)).logits, dense(tiny_image.batch(2)).logits)


def test_the_model_sees_means_of_areas(tiny_image) -> None:
    """Half of 8 x 8 pixels: each of 4 x 4 is the mean of a square of four."""
    model = Downsample(0.5).build(tiny_image.spec, PATCHES).eval()
    seen: list[Batch] = []
    model.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = tiny_image.batch(2)
    model(batch)
    squares = batch.inputs.unflatten(2, (4, 2)).unflatten(4, (4, 2))
    torch.testing.assert_close(seen[0].inputs, squares.mean((3, 5)))


def test_half_the_resolution_costs_a_quarter_of_the_tokens(tiny_image) -> None:
    """16 patches become 4: with the class token four blocks work on 5 tokens and 25 pairs."""
    # Width 16, hidden 64: a token's linear layers take 8 x 16^2 + 4 x 16 x 64 = 6,144 FLOPs; each
    # pair 4 x 16 = 64. The stem takes 2 x 4 x 16 = 128 a patch, the head 2 x 16 x 5 = 160.
    small = Downsample(0.5).build(tiny_image.spec, PATCHES).eval()
    blocks = 4 * (5 * 6_144 + 25 * 64)
    assert count(small, tiny_image.batch(1)).total == blocks + 4 * 128 + 160


def test_sizes_are_whole_tokens() -> None:
    """0.7 of 224 in patches of 16 is 9.8 of 14, so 160 pixels; never less than one token."""
    assert smaller(224, 0.7, 16) == 160
    assert smaller(224, 0.01, 16) == 16
    assert smaller(15, 1.0, 4) == 15


def test_only_images_are_made_smaller(tiny_text, tiny_labels, tiny_pairs) -> None:
    """Other inputs are refused with the reason."""
    for tiny in (tiny_text, tiny_labels, tiny_pairs):
        with pytest.raises(Unsupported, match="only images"):
            Downsample().build(tiny.spec, tiny.backbone)
    with pytest.raises(Unsupported, match="audio"):
        Downsample().build(TaskSpec("a", "audio", (8, 6), 5), PATCHES)


def test_a_resolution_outside_the_range_is_refused() -> None:
    """0 and more than 1 name the setting."""
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="resolution"):
            construct(Downsample, {"resolution": wrong})
