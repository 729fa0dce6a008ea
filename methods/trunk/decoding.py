"""Greedy decoding with a cache: the prompt in one pass, then one token per pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from bench.types import Batch, Output, TaskSpec, Unsupported
from methods.trunk.cache import Cache


def greedy(
    model: Callable[[Batch, Cache], Output], spec: TaskSpec, prompt: Batch, num_tokens: int
) -> Iterator[Tensor]:
    """Yield the likeliest next token [B] `num_tokens` times after `prompt.inputs` [B, T].

    `model(batch, cache)` gives logits of the next token [B, 1, C]. Raises Unsupported where the
    task is no language model or prompts are padded, ValueError for more tokens than positions.
    """
    if not spec.causal:
        raise Unsupported("only a language model continues its input")
    if prompt.mask is not None:
        raise Unsupported("prompts of different lengths are not generated from in one batch")
    num_samples, length = prompt.inputs.shape
    if num_tokens < 1 or length + num_tokens > spec.input_shape[0] + 1:
        raise ValueError(
            f"{length} + {num_tokens} tokens: a prompt and what follows share "
            f"{spec.input_shape[0]} positions, the last token needs none"
        )
    return _each(model, prompt.inputs, num_tokens, Cache(num_samples, length + num_tokens - 1))


def _each(
    model: Callable[[Batch, Cache], Output], given: Tensor, num_tokens: int, cache: Cache
) -> Iterator[Tensor]:
    for _ in range(num_tokens):
        logits = model(Batch(given, given), cache).logits  # [B, 1, C]
        cache.length += given.shape[1]
        token = logits[:, -1].argmax(-1)
        yield token
        given = token[:, None]
