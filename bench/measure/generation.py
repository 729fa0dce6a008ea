"""The workload `generate`: a call continues a prompt, one token after the other.

    workload=forward     a call answers for the whole input at once (prefill, for a language model)
    workload=generate    a call reads the first half of the input and writes the second, greedily

Every meter works on calls, so apart from quality (which a task judges as always) FLOPs, speed-up,
memory and energy of a record are then those of whole generations. What only generating has comes on
top: time to first token, and time, FLOPs, memory and energy of every further one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.config import MeasureConfig
from bench.measure.energy.per_token import SINGLE, measure_token_energy
from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.conditions import evaluation_mode, gc_disabled
from bench.meters.flops.counter import count_samples
from bench.meters.guard import refuse_if_watched
from bench.meters.memory.tensors import measure_inference_memory
from bench.meters.time.stopwatch import Stopwatch, stopwatch_for
from bench.plugins.hooks import Flags, Hooks
from bench.records.record import Metric, missing
from bench.statistics import ratio_interval
from bench.types import Batch, TaskSpec, Unsupported

NUM_ROUNDS = 6  # over the inputs, for times: the fewest with a 95 % interval
PER_FURTHER = tuple(  # what a single token does not have
    f"infer/{name}_" for name in ("tpot", "flops_per_output_token", "bytes_per_output_token")
)
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
        return torch.stack(list(model.generate(prompt_of(batch), length)), 1)


def generating_hooks(hooks: Hooks) -> Hooks:
    """The hooks that are called with a model, for that model inside `Generating`."""

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
    if not flags.batch_invariant:
        raise Unsupported(
            "workload=generate: what a token gets depends on the other tokens of its pass, "
            "and with a cache these are others than without"
        )


def called(subject: Subject) -> Subject:
    """The subject as the workload calls it: as it is, or generating.

    Raises Unsupported for a model that cannot.
    """
    if subject.config.workload == "forward":
        return subject
    if not hasattr(subject.model, "generate"):
        raise Unsupported("workload=generate: the model has no generate(prompt, num_tokens)")
    config = subject.config
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
    length = batch.inputs.shape[1]
    return length - length // 2


def measure_generation(
    subject: Subject, baseline: nn.Module, inputs: Inputs, whole: Metrics
) -> Metrics:
    """What only generating has, at the operating point that is set, per batch size B.

    `infer/ttft_ms_b{B}`: prompt to first token; `infer/tpot_ms_b{B}`: per further token;
    `infer/{ttft,tpot}_speedup_b{B}`: the dense model's over the method's, in turns on each batch;
    `infer/flops_first_token_b{B}`, `infer/flops_per_output_token_b{B}`: of a sample, the second for
    further tokens; `infer/bytes_per_output_token_b{B}`: what a further token of a sample adds to
    the peak; `infer/{,cpu_}energy_j_per_output_token`: what one adds to a sample's energy;
    `infer/num_generated_inputs`: how many prompts there were. `whole` holds the metrics of whole
    generations, energy among them.
    """
    assert isinstance(subject.model, Generating)
    sample = inputs.samples[0]
    num_tokens = num_output_tokens(sample)
    metrics: Metrics = {
        "infer/num_generated_inputs": _count(len(inputs.samples)),
        "infer/num_prompt_tokens": _count(prompt_of(sample).inputs.shape[1]),
        "infer/num_output_tokens": _count(num_tokens),
    }
    short = Generating(subject.model.model, 1)
    metrics |= measure_token_energy(subject, short, inputs, whole, num_tokens)
    for size, batches in inputs.by_size.items():
        metrics |= _times(subject, baseline, batches, size)
        metrics |= _growth(subject, batches, size, num_tokens)
    if num_tokens == 1:
        further = [key for key in metrics if key.startswith(PER_FURTHER)]
        metrics |= {key: missing(metrics[key].unit, SINGLE) for key in further}
    return metrics


def _count(value: int) -> Metric:
    return Metric(value=value, unit="count")


def _times(subject: Subject, baseline: nn.Module, batches: list[Batch], size: int) -> Metrics:
    """Times to and per token, and both paired with the dense model's."""
    refuse_if_watched("time per token")
    models: list[Any] = [subject.model, baseline]
    with evaluation_mode(*models), gc_disabled():
        times = token_times(
            [m.model.generate for m in models], batches, stopwatch_for(subject.device)
        )
    metrics: Metrics = {}
    for name, seconds in zip(("ttft", "tpot"), times, strict=True):
        metrics[f"infer/{name}_ms_b{size}"] = _median_ms(seconds[:, 0])
        metrics[f"infer/{name}_speedup_b{size}"] = _speedup(seconds.sum(-1))
    return metrics


def token_times(
    generates: Sequence[Callable[[Batch, int], Any]], batches: list[Batch], watch: Stopwatch
) -> np.ndarray:
    """Seconds to the first token, and per further one: [2, NUM_ROUNDS, models, batches].

    The models take turns at every batch, and in every round another one begins.
    """
    times = np.empty((2, NUM_ROUNDS, len(generates), len(batches)))
    for number in range(-1, NUM_ROUNDS):  # -1 warms up; the last overwrites it
        order = list(enumerate(generates))[:: -1 if number % 2 else 1]
        for position, batch in enumerate(batches):
            for which, generate in order:
                times[:, number, which, position] = _timed_generation(generate, batch, watch)
    return times


def _timed_generation(
    generate: Callable[[Batch, int], Any], batch: Batch, watch: Stopwatch
) -> tuple[float, float]:
    prompt, num_tokens = prompt_of(batch), num_output_tokens(batch)
    begin_s = watch.now_s()
    tokens = iter(generate(prompt, num_tokens))
    next(tokens)
    first_s = watch.now_s()
    for _ in tokens:
        pass
    end_s = watch.now_s()
    return first_s - begin_s, (end_s - first_s) / max(1, num_tokens - 1)


def _median_ms(seconds: np.ndarray) -> Metric:
    """Median over batches of each one's median, in milliseconds; `seconds` [rounds, batches]."""
    return Metric(value=float(np.median(np.median(seconds, axis=0)) * 1e3), unit="ms")


def _speedup(seconds: np.ndarray) -> Metric:
    """Dense time / own time with its interval over rounds; `seconds` [rounds, (own, dense)]."""
    if not (seconds > 0).all():
        return missing("1", "the clock saw no time pass")
    found = ratio_interval(np.log(seconds[:, 1] / seconds[:, 0]))
    return Metric(value=found.value, unit="1", low=found.low, high=found.high)


def _growth(subject: Subject, batches: list[Batch], size: int, num_tokens: int) -> Metrics:
    """FLOPs of the first token, and what every further one adds in FLOPs and in peak memory."""
    long: Any = subject.model
    short = Generating(long.model, 1)
    with evaluation_mode(short):
        first, whole = (count_samples(model, batches) for model in (short, long))
    issued, further = len(batches) * size, max(1, num_tokens - 1)
    doubt = None if whole.complete else "operations without a FLOP formula"
    low, high = (
        max(measure_inference_memory(model, batch).peak_tensor_bytes for batch in batches[:2])
        for model in (short, long)
    )

    def flop(value: float) -> Metric:
        return Metric(value=value, unit="flop", valid=doubt is None, reason=doubt)

    return {
        f"infer/flops_first_token_b{size}": flop(first.total / issued),
        f"infer/flops_per_output_token_b{size}": flop(
            (whole.total - first.total) / issued / further
        ),
        f"infer/bytes_per_output_token_b{size}": Metric(
            value=(high - low) / size / further, unit="bytes"
        ),
    }
