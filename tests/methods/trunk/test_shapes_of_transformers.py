"""The transformer's other shapes: class token, patches, tied embeddings, encoder-decoder."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.transformer import Transformer
from methods.trunk.positions import Rotary, sinusoids

TINY = Transformer(dim=16, depth=2, num_heads=4, hidden_multiple=2.0, image_stride=4)
IMAGES = TaskSpec("i", "image", (3, 8, 8), 5)
TEXT = TaskSpec("t", "tokens", (6,), 7, vocab_size=7, causal=True)
PAIRS = TaskSpec("p", "seq2seq", (6,), 7, vocab_size=9, target_length=5)
MODERN = replace(TINY, norm="rms", positions="rotary", activation="swiglu", num_kv_heads=2)
FIRST = replace(TINY, positions="sinusoidal", norm_first=False, activation="relu")


def _pairs(num_samples: int = 2) -> Batch:
    inputs, targets = torch.randint(9, (num_samples, 6)), torch.randint(7, (num_samples, 5))
    return Batch(inputs, targets, mask=torch.arange(6) < 4, decoder_inputs=targets.roll(1, 1))


def _with_mask(batch: Batch) -> Batch:
    return replace(batch, mask=batch.mask.expand(len(batch), -1))


def test_sinusoids_by_hand() -> None:
    """D = 4: sin p, cos p, sin p / 100, cos p / 100 at p = 2."""
    expected = torch.tensor([2.0, 2.0, 0.02, 0.02])
    expected = torch.stack(
        [expected[0].sin(), expected[1].cos(), expected[2].sin(), expected[3].cos()]
    )
    torch.testing.assert_close(sinusoids(3, 4)[2], expected)


def test_rotary_depends_on_distance_only() -> None:
    """The product of a turned query and key is the same for positions 1, 3 and 5, 7."""
    rotary = Rotary(8, 4, 10_000.0)
    query, key = torch.randn(2, 1, 1, 1, 4).unbind(0)

    def product(at: int, other: int) -> torch.Tensor:
        return (rotary(query, torch.tensor([[at]])) * rotary(key, torch.tensor([[other]]))).sum()

    torch.testing.assert_close(product(1, 3), product(5, 7))
    assert not torch.allclose(product(1, 3), product(1, 4))


@pytest.mark.parametrize("stem", ["patch", "convolutional"])
def test_the_class_token_answers(stem: str) -> None:
    """8 x 8 pixels at stride 4: 4 tokens and one that the head reads."""
    backbone = replace(TINY, stem=stem, pool="class")
    trunk = backbone.build(IMAGES)
    images = torch.randn(2, 3, 8, 8)
    state = trunk.stem(Batch(images, images))
    assert state.x.shape == (2, 5, 16)
    assert backbone.num_tokens(IMAGES) == 5
    assert trunk.class_token
    swapped = replace(state, x=torch.cat([state.x[:, :1], state.x[:, 1:].flip(1)], 1))
    assert torch.equal(trunk.head(state), trunk.head(swapped))


def test_patches_must_tile() -> None:
    """An image that patches do not cover is refused with both sizes."""
    with pytest.raises(Unsupported, match="3 pixels do not tile 8 x 8"):
        replace(TINY, stem="patch", image_stride=3).build(IMAGES)


def test_tied_embeddings_stay_tied_in_copies() -> None:
    """The output matrix is the embedding, also in a deep copy and in new heads."""
    trunk = replace(TINY, tied_embeddings="output").build(TEXT)
    for each in (trunk, copy.deepcopy(trunk)):
        assert each.head.linear.weight is each.stem.embedding.weight
        assert each.new_head().linear.weight is each.stem.embedding.weight
    assert trunk.stem.embedding.weight is not copy.deepcopy(trunk).stem.embedding.weight


def test_what_cannot_be_tied_is_refused() -> None:
    """A classifier predicts no symbols, and two vocabularies are not one."""
    for spec, tied in ((IMAGES, "output"), (PAIRS, "all")):
        with pytest.raises(Unsupported, match="tied_embeddings"):
            replace(TINY, tied_embeddings=tied).build(spec)


def test_one_vocabulary_for_all() -> None:
    """Source, target and output share one matrix."""
    spec = replace(PAIRS, vocab_size=7)
    trunk = replace(FIRST, tied_embeddings="all").build(spec)
    weights = (trunk.stem.source.embedding, trunk.stem.target.embedding, trunk.head.linear)
    assert len({id(layer.weight) for layer in weights}) == 1


@pytest.mark.parametrize("backbone", [TINY, MODERN, FIRST], ids=["gpt2", "modern", "first"])
def test_decoders_do_not_see_the_future(backbone: Transformer) -> None:
    """Changing a decoder input changes no logits before it, and those from it on."""
    model, batch = backbone.build(PAIRS).eval(), _with_mask(_pairs())
    changed = batch.decoder_inputs.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 7
    before = model(batch).logits
    after = model(replace(batch, decoder_inputs=changed)).logits
    assert before.shape == (2, 5, 7)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


@pytest.mark.parametrize("backbone", [TINY, MODERN, FIRST], ids=["gpt2", "modern", "first"])
def test_decoders_read_the_source_and_not_its_padding(backbone: Transformer) -> None:
    """A source symbol changes every position's logits; a symbol in the padding none."""
    model, batch = backbone.build(PAIRS).eval(), _with_mask(_pairs())
    expected = model(batch).logits
    for place, matters in ((1, True), (5, False)):
        inputs = batch.inputs.clone()
        inputs[:, place] = (inputs[:, place] + 1) % 9
        found = model(replace(batch, inputs=inputs)).logits
        assert torch.allclose(found, expected, atol=1e-6) != matters


@pytest.mark.parametrize("spec", [TEXT, PAIRS], ids=["text", "pairs"])
@pytest.mark.parametrize("backbone", [TINY, MODERN], ids=["gpt2", "modern"])
def test_block_flops_are_what_blocks_execute(backbone: Transformer, spec: TaskSpec) -> None:
    """The formula for a block, times the depth, and the head: what the meter counts."""
    model = backbone.build(spec).eval()
    tokens = torch.randint(7, (1, 6))
    batch = _with_mask(_pairs(1)) if spec is PAIRS else Batch(tokens, tokens)
    head = 2 * 16 * 7 * (5 if spec is PAIRS else 6)
    with torch.no_grad():
        assert count(model, batch).total == 2 * backbone.block_flops(spec) + head


def test_replacements_reach_the_encoder() -> None:
    """Feed-forward layers of encoder and decoder are replaced, numbered on from the encoder's."""
    from methods.trunk.feedforward import FeedForward

    numbers, hidden = [], []

    def block(index, make):
        numbers.append(index)
        return make()

    def ffn(dim: int, width: int) -> FeedForward:
        hidden.append(width)
        return FeedForward(dim, width)

    trunk = TINY.build(PAIRS, ffn=ffn, block=block)
    assert numbers == [0, 1, 2, 3]
    assert hidden == [32] * 4
    assert (len(trunk.stem.blocks), len(trunk.blocks)) == (2, 2)


def test_misspelt_settings_are_refused() -> None:
    """A setting that is none of its choices is named with them."""
    with pytest.raises(ValueError, match="norm='batch': choose one of 'layer', 'rms'"):
        Transformer(norm="batch")
