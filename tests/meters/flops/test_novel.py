"""Inputs that no model was given: all new, nearly the same, padding where it was."""

from __future__ import annotations

import torch

from bench.meters.flops.novel import make_novel
from bench.types import Batch

TARGETS = torch.zeros(4, dtype=torch.long)


def test_numbers_are_blended_with_the_neighbour() -> None:
    """0.9 of an image and 0.1 of the one before it."""
    images = torch.arange(4.0)[:, None, None].expand(4, 3, 3)
    novel = make_novel(Batch(images, TARGETS)).inputs
    assert torch.allclose(novel[:, 0, 0], torch.tensor([0.3, 0.9, 1.9, 2.9]))
    assert novel.shape == images.shape


def test_each_sequence_gets_half_of_its_neighbour() -> None:
    """The second half in even rows, the first in odd ones: no row is an old one."""
    tokens = torch.arange(4)[:, None].repeat(1, 6)
    novel = make_novel(Batch(tokens, TARGETS)).inputs
    assert novel.tolist() == [
        [0, 0, 0, 3, 3, 3],
        [0, 0, 0, 1, 1, 1],
        [2, 2, 2, 1, 1, 1],
        [2, 2, 2, 3, 3, 3],
    ]


def test_padding_stays_padding() -> None:
    """Real tokens replace real tokens only."""
    tokens = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = tokens > 0
    novel = make_novel(Batch(tokens, TARGETS[:2], mask=mask)).inputs
    assert ((novel > 0) == mask).all()
    assert novel.tolist() == [[1, 2, 3, 0], [1, 2, 0, 0]]


def test_a_single_sample_is_shifted() -> None:
    """Without a neighbour, the same sample one place further."""
    batch = Batch(torch.tensor([[1, 2, 3, 4]]), TARGETS[:1], decoder_inputs=torch.tensor([[5, 6]]))
    novel = make_novel(batch)
    assert novel.inputs.tolist() == [[1, 2, 2, 3]]
    assert novel.decoder_inputs.tolist() == [[5, 5]]
    image = torch.tensor([[1.0, 2.0]])
    assert not torch.equal(make_novel(Batch(image, TARGETS[:1])).inputs, image)
