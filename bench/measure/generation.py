"""The workload `generate`: a call continues a prompt, one token after the other.

    workload=forward     a call answers for the whole input at once (prefill, for a language model)
    workload=generate    a call reads the first half of the input and writes the second, greedily

Every meter works on calls, so apart from quality (evaluated as always) FLOPs, speed-up, memory and
energy of a record are then those of whole generations. `tokens` measures what only generating has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import MeasureConfig
from bench.measure.subject import Subject
from bench.plugins.hooks import Flags, Hooks
from bench.types import Batch, TaskSpec, Unsupported

FEWER_INPUTS = 4  # a generation is as many calls as it has tokens: every fourth input is used


class Generating(nn.Module):
    """A model whose call generates: [B, T] tokens in, the likeliest after the first half out.

    `num_tokens` of them, None for as many as the second half has.
    """

    def __init__(self, model: nn.Module, num_tokens: int | None = None) -> None:
        super().__init__()
        self.model, self.num_tokens = model, num_tokens

    def forward(self, batch: Batch) -> Tensor:
        """Tokens [B, num_tokens]."""
        model: Any = self.model
        length = self.num_tokens or num_output_tokens(batch)
        return torch.stack(list(model.generate(prompt_of(batch), length)), 1)  # [B, num_tokens]


def without_generating(model: nn.Module) -> nn.Module:
    """The model as a task calls it: what is inside `Generating`, or the model itself."""
    return model.model if isinstance(model, Generating) else model


def generating_hooks(hooks: Hooks) -> Hooks:
    """The hooks that are called with a model, for that model inside `Generating`."""

    # Only two hooks get a model while it is measured; the others have done their work in training.
    def inside(hook: Callable[..., Any] | None) -> Callable[..., Any] | None:
        return None if hook is None else lambda model, given: hook(model.model, given)

    return replace(
        hooks, set_point=inside(hooks.set_point), declared_flops=inside(hooks.declared_flops)
    )


def refuse_unsupported(config: MeasureConfig, spec: TaskSpec, flags: Flags) -> None:
    """Raises Unsupported, before anything is trained, where the workload cannot be measured."""
    if config.workload != "generate":
        return
    if not spec.causal:
        raise Unsupported("workload=generate needs a language model")
    # With a cache a step computes one token, so a token would compete with none of the others.
    if not flags.batch_invariant:
        raise Unsupported(
            "workload=generate: what a token gets depends on the other tokens of its pass, "
            "and with a cache these are others than without"
        )


def as_workload(subject: Subject) -> Subject:
    """The subject as the workload calls it: as it is, or generating.

    Raises Unsupported for a model that cannot.
    """
    if subject.config.workload == "forward":
        return subject
    if not hasattr(subject.model, "generate"):
        raise Unsupported("workload=generate: the model has no generate(prompt, num_tokens)")
    config = subject.config
    # `make_baseline` is wrapped, not called: memory is measured before the dense model exists.
    return replace(
        subject,
        model=Generating(subject.model),
        method=replace(subject.method, hooks=generating_hooks(subject.method.hooks)),
        make_baseline=lambda: Generating(subject.make_baseline()),
        config=replace(config, num_inputs=max(1, config.num_inputs // FEWER_INPUTS)),
    )


def prompt_of(batch: Batch) -> Batch:
    """The first half of every sequence."""
    return replace(batch, inputs=batch.inputs[:, : batch.inputs.shape[1] // 2])


def num_output_tokens(batch: Batch) -> int:
    """How many tokens the second half has."""
    length = batch.inputs.shape[1]  # of an odd length the second half is the longer one
    return length - length // 2
