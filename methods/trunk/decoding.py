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

    `model(batch, cache)` gives logits of the next token [B, 1, C]. Raises Unsupported for a task
    that is not causal and for padded prompts, ValueError for more tokens than positions. All are
    raised by this call, not by the first `next`.
    """
    return _decode(model, prompt.inputs, num_tokens, make_cache(spec, prompt, num_tokens))


def make_cache(spec: TaskSpec, prompt: Batch, num_tokens: int) -> Cache:
    """A cache for a prompt and its continuation; raises as `greedy` does."""
    if not spec.causal:
        raise Unsupported("only a language model continues its input")
    if prompt.mask is not None:
        raise Unsupported("prompts of different lengths are not generated from in one batch")
    num_samples, length = prompt.inputs.shape
    if num_tokens < 1 or length + num_tokens > spec.input_shape[0] + 1:
        raise ValueError(
            f"{length} + {num_tokens} tokens: a prompt and its continuation share "
            f"{spec.input_shape[0]} positions, the last token needs none"
        )
    # The last token is returned and never read again: no position, no place in the cache.
    return Cache(num_samples, length + num_tokens - 1)


def _decode(
    model: Callable[[Batch, Cache], Output], inputs: Tensor, num_tokens: int, cache: Cache
) -> Iterator[Tensor]:
    for _ in range(num_tokens):
        # A batch must have targets; the inputs stand in, a model does not read them.
        logits = model(Batch(inputs, inputs), cache).logits  # [B, 1, C]
        cache.length += inputs.shape[1]  # after the pass: all layers have stored the same tokens
        token = logits[:, -1].argmax(-1)  # [B]
        yield token
        inputs = token[:, None]
