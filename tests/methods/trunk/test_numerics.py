"""Dense models compute what Hugging Face's compute with the same weights."""

from __future__ import annotations

import pytest
import torch

from bench.types import Batch
from methods.backbone.transformer import Transformer
from methods.trunk.cache import Cache
from tests.references import huggingface

VIT = Transformer(
    dim=32, depth=3, num_heads=4, stem="patch", image_stride=4, pool="class", norm_eps=1e-6
)
GPT2 = Transformer(dim=32, depth=3, num_heads=4, activation="gelu_tanh", tied_embeddings="output")
MODERN = {"norm": "rms", "positions": "rotary", "activation": "swiglu", "bias": False}
LLAMA = Transformer(dim=32, depth=3, num_heads=4, num_kv_heads=2, hidden_multiple=2.5, **MODERN)
NAMES = {"gpt2": (huggingface.gpt2, GPT2), "llama": (huggingface.llama, LLAMA)}
FULL_HEADS = Transformer(dim=32, depth=2, num_heads=4, rope_theta=500.0, **MODERN)


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.1  # the weights matter
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_vit() -> None:
    """ViT: patches, class token, pre-norm blocks with exact GELU, final norm, classifier."""
    theirs, ours = huggingface.vit(VIT, image_size=16, num_classes=7)
    images = torch.randn(3, 3, 16, 16)
    _close(ours(Batch(images, images)).logits, theirs(images).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_language_models(name: str) -> None:
    """GPT-2 with its tied output layer; Llama with rotary positions and grouped queries."""
    make, shape = NAMES[name]
    theirs, ours = make(shape, vocab_size=23, length=12)
    tokens = torch.randint(23, (3, 12))
    _close(ours(Batch(tokens, tokens)).logits, theirs(tokens).logits)


@torch.no_grad()
def test_llama_with_all_heads_and_another_base() -> None:
    """As many heads of keys as of queries, and angles from another base."""
    theirs, ours = huggingface.llama(FULL_HEADS, vocab_size=23, length=12)
    tokens = torch.randint(23, (3, 12))
    _close(ours(Batch(tokens, tokens)).logits, theirs(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_generation(name: str) -> None:
    """Greedy decoding gives the tokens that transformers' generate gives."""
    make, shape = NAMES[name]
    theirs, ours = make(shape, vocab_size=23, length=20)
    prompt = torch.randint(23, (2, 8))
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )[:, 8:]
    assert torch.equal(torch.stack(list(ours.generate(Batch(prompt, prompt), 12)), 1), expected)


@torch.no_grad()
def test_a_token_after_a_cached_prompt() -> None:
    """Rotary positions continue after the tokens that the cache holds."""
    theirs, ours = huggingface.llama(LLAMA, vocab_size=23, length=12)
    tokens = torch.randint(23, (3, 12))
    cache = Cache(num_samples=3, capacity=12)
    ours(Batch(tokens[:, :11], tokens), cache)
    cache.length = 11
    found = ours(Batch(tokens[:, 11:], tokens), cache).logits
    _close(found[:, 0], theirs(tokens).logits[:, -1])
