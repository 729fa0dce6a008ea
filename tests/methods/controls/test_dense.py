"""The dense baseline."""

from __future__ import annotations

import torch

from bench import routing
from methods.controls.dense import Dense


def test_dense_is_the_backbone_itself(tiny) -> None:
    """It builds the very trunk that the backbone builds from the same seed."""
    torch.manual_seed(3)
    mine = Dense().build(tiny.spec, tiny.backbone)
    torch.manual_seed(3)
    trunk = tiny.backbone.build(tiny.spec)
    assert torch.equal(mine(tiny.batch(2)).logits, trunk(tiny.batch(2)).logits)


def test_dense_decides_nothing(tiny) -> None:
    """A dense model announces no decision."""
    model = Dense().build(tiny.spec, tiny.backbone)
    with routing.observe() as seen:
        model(tiny.batch(2))
    assert seen.decisions == []
