"""Generating with a cache: the tokens of the model that recomputes everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Batch, TaskSpec, Unsupported
from methods.backbone.transformer import Transformer
from methods.trunk.cache import Cache
from tests.methods.conftest import WITHOUT_CACHE

NUM_TOKENS = 9
MODERN = {"norm": "rms", "positions": "rotary", "activation": "swiglu", "bias": False}
BLOCKS = {"gpt2": {"activation": "gelu_tanh", "tied_embeddings": "output"}, "modern": MODERN}


def _prompt(tiny: Any, num_samples: int = 3) -> Batch:
    return replace(tiny.batch(num_samples), inputs=tiny.batch(num_samples).inputs[:, :8])


def _sharpen(model: nn.Module) -> nn.Module:
    """Weights so large that the likeliest token is likeliest by far."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.eval()


@torch.no_grad()
def _recompute(model: nn.Module, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
    """Greedy decoding that runs everything again for every token."""
    tokens = prompt.inputs
    for _ in range(num_tokens):
        token = model(Batch(tokens, tokens)).logits[:, -1].argmax(-1)
        yield token
        tokens = torch.cat([tokens, token[:, None]], 1)


@torch.no_grad()
def _generate(model: Any, prompt: Batch, num_tokens: int) -> Tensor:
    return torch.stack(list(model.generate(prompt, num_tokens)), 1)  # [B, num_tokens]


@pytest.mark.parametrize("num_kv_heads", [None, 1])
@pytest.mark.parametrize("settings", BLOCKS.values(), ids=BLOCKS)
def test_cache_equals_recomputing(tiny_text, settings, num_kv_heads) -> None:
    """Every kind of decoder block generates with a cache what it generates without one."""
    backbone = Transformer(dim=16, depth=2, num_heads=2, num_kv_heads=num_kv_heads, **settings)
    model, prompt = _sharpen(backbone.build(tiny_text.spec)), _prompt(tiny_text)
    expected = torch.stack(list(_recompute(model, prompt, NUM_TOKENS)), 1)
    assert expected.unique(dim=0).shape[0] == 3  # the samples differ
    assert torch.equal(_generate(model, prompt, NUM_TOKENS), expected)


@pytest.mark.parametrize("num_samples", [1, 4])
def test_methods_generate_what_they_recompute(text_built_in, num_samples) -> None:
    """With its own decisions, every method that generates gives the tokens of recomputing."""
    prompt = _prompt(text_built_in.tiny, num_samples)
    for _, each in text_built_in.at_points():
        expected = torch.stack(list(_recompute(each, prompt, NUM_TOKENS)), 1)
        assert torch.equal(_generate(each, prompt, NUM_TOKENS), expected)


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("method", ["early_exit", "mixture_of_depths", "moe", "topk_ffn"])
def test_modern_blocks_generate_what_they_recompute(text_built_in_named, method, num_samples):
    """The same with RMSNorm, rotary positions, grouped queries and SwiGLU at every point."""
    size = {"dim": 16, "depth": 4, "num_heads": 2, "num_kv_heads": 1, "hidden_multiple": 2.0}
    backbone = Transformer(**size, **MODERN)
    found = replace(text_built_in_named(method), backbone=backbone)
    if method == "topk_ffn":  # its blocks of hidden units have no gate
        with pytest.raises(Unsupported, match="of the form W2 f"):
            found.make_untrained()
        found = replace(found, backbone=replace(backbone, activation="gelu", bias=True))
    if method == "mixture_of_depths":  # with the default, a few steps leave one symbol only
        found = replace(found, method=replace(found.method, capacity=0.25))
    prompt = _prompt(found.tiny, num_samples)
    tokens = set()
    for _, model in found.at_points():
        expected = torch.stack(list(_recompute(model, prompt, NUM_TOKENS)), 1)
        assert torch.equal(_generate(model, prompt, NUM_TOKENS), expected)
        tokens |= set(expected.flatten().tolist())
    assert len(tokens) > 1  # nothing would be found out from one symbol


@pytest.mark.parametrize("name", WITHOUT_CACHE)
def test_the_others_have_no_generate(text_built_in_named, name: str) -> None:
    """A method is left out above only as long as it cannot generate."""
    assert not hasattr(text_built_in_named(name).make_untrained(), "generate")


@pytest.mark.parametrize("num_samples", [1, 4])
def test_cached_logits_are_those_of_recomputing(text_built_in, num_samples) -> None:
    """A pass over the next tokens gives the last one's logits of a pass over all tokens."""
    model, batch = text_built_in.model, text_built_in.tiny.batch(num_samples)
    cache = Cache(num_samples, 16)
    with torch.no_grad():
        for begin, end in [(0, 9), (9, 10), (10, 11), (11, 15), (15, 16)]:
            part = replace(batch, inputs=batch.inputs[:, begin:end])
            found = model(part, cache).logits
            cache.length = end
            whole = replace(batch, inputs=batch.inputs[:, :end])
            torch.testing.assert_close(found, model(whole).logits[:, -1:], atol=1e-5, rtol=1e-4)


def test_open_gates_generate_the_dense_models_tokens(tiny_text) -> None:
    """Early exit and block-sparse layers with open gates generate the dense model's tokens."""
    from methods.skipping.early_exit import EarlyExit
    from methods.sparsity.topk_ffn import TopkFFN

    dense, prompt = _sharpen(tiny_text.backbone.build(tiny_text.spec)), _prompt(tiny_text)
    expected = _generate(dense, prompt, NUM_TOKENS)
    for method in (EarlyExit(), TopkFFN(num_blocks=4, k=1)):
        model = method.convert(dense, []).eval()
        with routing.force("open"):
            assert torch.equal(_generate(model, prompt, NUM_TOKENS), expected)


@pytest.mark.parametrize("settings", BLOCKS.values(), ids=BLOCKS)
def test_open_mixture_of_depths_generates_like_dense_at_zero_scores(tiny_text, settings) -> None:
    """A score of 0 scales by 2 sigmoid(0) = 1; others scale by something else on purpose."""
    from methods.skipping.mixture_of_depths import MixtureOfDepths, RoutedBlock

    backbone = Transformer(dim=16, depth=2, num_heads=2, **settings)
    dense, prompt = _sharpen(backbone.build(tiny_text.spec)), _prompt(tiny_text)
    model = MixtureOfDepths().convert(dense, []).eval()
    (routed,) = [block for block in model.blocks if isinstance(block, RoutedBlock)]
    expected = _generate(dense, prompt, NUM_TOKENS)
    with routing.force("open"):
        nn.init.zeros_(routed.router.weight)
        assert torch.equal(_generate(model, prompt, NUM_TOKENS), expected)
        nn.init.constant_(routed.router.weight, 4.0)
        assert not torch.equal(_generate(model, prompt, NUM_TOKENS), expected)


@pytest.mark.parametrize("name", ["early_exit", "mixture_of_depths"])
def test_generations_declare_what_they_execute(text_built_in_named, name) -> None:
    """Executed FLOPs beyond closed gates' are the declared ones, but for a prompt's head."""
    found = text_built_in_named(name)
    model, prompt = found.model, _prompt(found.tiny, 1)

    def spent() -> tuple[int, float]:
        with torch.no_grad(), routing.observe() as seen:
            executed = count(lambda: list(model.generate(prompt, NUM_TOKENS))).total
        return executed, found.declared_flops(model, seen)

    with routing.force("closed"):
        least, nothing = spent()
    with routing.force("open"):
        most, declared = spent()
    assert nothing == 0
    head = 2 * 16 * 11
    assert most - least - declared in (0, head)
    executed, declared = spent()
    assert executed - least - declared in (0, head)


def test_only_language_models_generate(tiny_image) -> None:
    """A model that predicts no next token raises Unsupported."""
    model = tiny_image.backbone.build(tiny_image.spec)
    with pytest.raises(Unsupported, match="language model"):
        model.generate(tiny_image.batch(1), 2)


def test_generation_ends_with_the_positions(tiny_text) -> None:
    """8 tokens of prompt and 9 that follow fit 16 positions: the last token is never read."""
    model, prompt = tiny_text.backbone.build(tiny_text.spec).eval(), _prompt(tiny_text)
    assert _generate(model, prompt, 9).shape == (3, 9)
    with pytest.raises(ValueError, match="share 16 positions"):
        model.generate(prompt, 10)


def test_padded_prompts_are_refused() -> None:
    """A batch of prompts of different lengths is refused instead of generated wrongly."""
    spec = TaskSpec("t", "tokens", (8,), 5, vocab_size=5, causal=True)
    model = Transformer(dim=16, depth=1, num_heads=2).build(spec)
    tokens = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(Unsupported, match="different lengths"):
        model.generate(Batch(tokens, tokens, mask=tokens == 0), 2)


def test_attention_without_a_cache_is_refused_by_name(tiny_text) -> None:
    """A replaced attention layer that keeps no keys and values does not generate wrongly."""

    class Average(nn.Module):
        def forward(self, x: Tensor, mask: Any, context: Any = None) -> Tensor:
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

    model = tiny_text.backbone.build(
        tiny_text.spec, attention=lambda dim, num_heads, causal: Average()
    )
    with pytest.raises(Unsupported, match="Average keeps no keys and values"):
        next(model.generate(_prompt(tiny_text), 2))
