"""The control: a smaller dense model at the same FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bench.check.tiny_tasks import TINY
from bench.meters.flops.counter import count
from bench.types import TaskSpec, Unsupported
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.controls.shrunk_dense import ShrunkDense
from methods.experts.moe import MoE

VARIANTS = Path(__file__).parents[3] / "conf" / "method"
IMAGE = TaskSpec("i", "image", (1, 16, 16), 10)
BACKBONE = Transformer(dim=128, depth=6, num_heads=4, image_stride=2)


@given(st.floats(0.1, 1.0))
def test_the_blocks_spend_the_share(share: float) -> None:
    """The smaller model's blocks spend the given share of the dense blocks' FLOPs within 1 %."""
    small = ShrunkDense(share).shrink(IMAGE, BACKBONE)
    spent = small.depth * small.block_flops(IMAGE) / (6 * BACKBONE.block_flops(IMAGE))
    assert spent == pytest.approx(share, rel=0.01)


def test_half_of_six_blocks_is_three_blocks() -> None:
    """Where whole blocks come out even, only the depth shrinks."""
    small = ShrunkDense(0.5).shrink(IMAGE, BACKBONE)
    assert (small.depth, small.hidden_multiple) == (3, pytest.approx(4.0))


def test_the_rest_comes_from_the_hidden_width() -> None:
    """60 % of six blocks: four blocks of 0.9 each, taken out of the feed-forward width.

    With T = 64, D = 128, H = 512 a token costs 8 D^2 + 4 T D = 163,840 in attention and
    4 D H = 262,144 in the feed-forward layer; 0.9 x 425,984 - 163,840 = 219,545.6 remain for the
    latter, 0.8375 of it: H = 0.8375 x 512 = 428.8, a multiple of 3.35.
    """
    small = ShrunkDense(0.6).shrink(IMAGE, BACKBONE)
    assert (small.depth, small.hidden_multiple) == (4, pytest.approx(3.35))


def test_the_whole_share_is_the_backbone(tiny) -> None:
    """share = 1 changes nothing."""
    small = ShrunkDense(1.0).shrink(tiny.spec, tiny.backbone)
    assert small == tiny.backbone


def test_it_builds_and_runs(tiny) -> None:
    """The smaller model returns logits like any other."""
    model = ShrunkDense(0.4).build(tiny.spec, tiny.backbone)
    assert len(model.blocks) == 2
    assert model(tiny.batch(2)).logits.isfinite().all()


@pytest.mark.parametrize("kind", ["image", "text", "pairs"])
def test_the_feed_share_of_a_mixture_executes_its_flops(kind: str) -> None:
    """conf/method/shrunk_dense_moe: H = 0.51 x 384 = 196 neurons spend as much as the mixture.

    A token's two experts of 96 neurons cost 4 D x 192, its router 2 D x 8 = 4 D x 4.
    """
    tiny = TINY[kind]
    settings: Any = OmegaConf.to_container(OmegaConf.load(VARIANTS / "shrunk_dense_moe.yaml"))
    assert settings.pop("defaults") == ["shrunk_dense"]
    backbone = Transformer(dim=96, depth=4, num_heads=3)
    small = ShrunkDense(**settings).build(tiny.spec, backbone).eval()
    assert small.blocks[0].ffn.hidden == 196
    mixture = MoE().build(tiny.spec, backbone).eval()
    spent = [count(model, tiny.batch(3)).total for model in (small, mixture)]
    assert spent[0] == spent[1]


def test_a_family_without_feed_forward_layers_has_no_feed_share() -> None:
    """A convolutional network is refused with the reason."""
    with pytest.raises(Unsupported, match="feed-forward"):
        ShrunkDense(feed_share=0.5).shrink(IMAGE, ResNet())


def test_too_small_a_share_is_refused() -> None:
    """Less than the attention of one block cannot be built."""
    with pytest.raises(Unsupported, match="attention"):
        ShrunkDense(0.03).shrink(IMAGE, BACKBONE)


def test_families_without_depth_are_refused() -> None:
    """A backbone without a block's cost is refused with the reason."""
    with pytest.raises(Unsupported, match="depth"):
        ShrunkDense().build(IMAGE, torch.nn.Identity())
