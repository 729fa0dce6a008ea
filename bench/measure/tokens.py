"""What only generating has: time, FLOPs, memory and energy of the first and of a further token.

infer/ttft_ms_b{B}                      prompt to first token
infer/tpot_ms_b{B}                      each further token
infer/{ttft,tpot}_speedup_b{B}          the dense model's over the method's, in turns
infer/flops_first_token_b{B}            of a sample, prompt included
infer/flops_per_output_token_b{B}       what a further token of a sample adds
infer/bytes_per_output_token_b{B}       what it adds to the peak: mostly keys and values
infer/{,cpu_}energy_j_per_output_token  what it adds to a sample's energy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from bench.measure.energy.per_token import SINGLE, measure_token_energy
from bench.measure.findings import Part
from bench.measure.generation import Generating, num_output_tokens, prompt_of
from bench.measure.inputs import Inputs
from bench.measure.metrics import interval_metric, metric, missing_metric
from bench.measure.subject import Metrics, Subject
from bench.meters.conditions import evaluation_mode, gc_disabled
from bench.meters.flops.counter import count_samples
from bench.meters.guard import refuse_if_watched
from bench.meters.memory.tensors import measure_inference_memory
from bench.meters.time.stopwatch import Stopwatch, stopwatch_for
from bench.records.catalogue import (
    FIRST_FLOPS,
    GENERATED_INPUTS,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    TOKEN_BYTES,
    TOKEN_FLOPS,
    TPOT,
    TPOT_SPEEDUP,
    TTFT,
    TTFT_SPEEDUP,
)
from bench.records.entry import Entry
from bench.records.record import Metric, missing
from bench.statistics import ratio_interval
from bench.types import Batch

NUM_ROUNDS = 6  # over the inputs, for times: the fewest with a 95 % interval
PER_FURTHER = (TPOT, TPOT_SPEEDUP, TOKEN_FLOPS, TOKEN_BYTES)  # what a single token does not have
NUM_PEAKS = 2  # batches per size whose peak memory is measured, as in the footprint


def measure_generation(
    subject: Subject, baseline: nn.Module, inputs: Inputs, whole: Metrics
) -> Part:
    """The metrics above at the operating point that is set, per batch size B.

    `subject` and `baseline` are models that generate; `whole` holds the metrics of whole
    generations, energy among them.
    """
    assert isinstance(subject.model, Generating)
    sample = inputs.samples[0]
    num_tokens = num_output_tokens(sample)
    num_prompt_tokens = prompt_of(sample).inputs.shape[1]
    metrics: Metrics = {
        GENERATED_INPUTS.at(): metric(GENERATED_INPUTS, len(inputs.samples)),
        PROMPT_TOKENS.at(): metric(PROMPT_TOKENS, num_prompt_tokens),
        OUTPUT_TOKENS.at(): metric(OUTPUT_TOKENS, num_tokens),
    }
    short = Generating(subject.model.model, 1)  # the same model, stopped at its first token
    metrics |= measure_token_energy(subject, short, inputs, whole, num_tokens)
    for size, batches in inputs.by_size.items():
        metrics |= _times(subject, baseline, batches, size)
        metrics |= _growth(subject.model, short, batches, size)
    if num_tokens == 1:
        # Differences of nothing: zero over zero further tokens is no figure.
        further = [key for key in metrics if any(entry.match(key) for entry in PER_FURTHER)]
        metrics |= {key: missing(metrics[key].unit, SINGLE) for key in further}
    return Part(metrics)


def _times(subject: Subject, baseline: nn.Module, batches: list[Batch], size: int) -> Metrics:
    """Times to and per token, and both paired with the dense model's."""
    refuse_if_watched("time per token")
    models: list[Any] = [subject.model, baseline]  # both are `Generating`
    with evaluation_mode(*models), gc_disabled():
        generates = [model.model.generate for model in models]
        times = token_times(generates, batches, stopwatch_for(subject.device))
    metrics: Metrics = {}
    entries = ((TTFT, TTFT_SPEEDUP), (TPOT, TPOT_SPEEDUP))
    for (time, speedup), seconds in zip(entries, times, strict=True):
        metrics[time.at(size)] = _median_ms(time, seconds[:, 0])
        metrics[speedup.at(size)] = _speedup(speedup, seconds.sum(-1))  # summed over batches
    return metrics


def token_times(
    generates: Sequence[Callable[[Batch, int], Any]], batches: list[Batch], watch: Stopwatch
) -> np.ndarray:
    """Seconds to the first token, and per further one: [2, NUM_ROUNDS, models, batches].

    The models take turns at every batch, and in every round another one begins.
    """
    times = np.empty((2, NUM_ROUNDS, len(generates), len(batches)))
    for number in range(-1, NUM_ROUNDS):  # -1 warms up; the last round overwrites it
        order = list(enumerate(generates))[:: -1 if number % 2 else 1]
        for position, batch in enumerate(batches):
            for which, generate in order:
                times[:, number, which, position] = _time_generation(generate, batch, watch)
    return times


def _time_generation(
    generate: Callable[[Batch, int], Any], batch: Batch, watch: Stopwatch
) -> tuple[float, float]:
    """Seconds to the first token, and the mean of the further ones."""
    prompt, num_tokens = prompt_of(batch), num_output_tokens(batch)
    begin_s = watch.now_s()  # on a GPU the watch synchronises before it reads the clock
    tokens = iter(generate(prompt, num_tokens))
    next(tokens)
    first_s = watch.now_s()
    # No clock between further tokens: on a GPU each reading would wait for the device.
    for _ in tokens:
        pass
    end_s = watch.now_s()
    return first_s - begin_s, (end_s - first_s) / max(1, num_tokens - 1)


def _median_ms(entry: Entry, seconds: np.ndarray) -> Metric:
    """Median over batches of each one's median, in milliseconds; `seconds` [rounds, batches]."""
    return metric(entry, float(np.median(np.median(seconds, axis=0)) * 1e3))


def _speedup(entry: Entry, seconds: np.ndarray) -> Metric:
    """Dense time / own time with its interval over rounds; `seconds` [rounds, (own, dense)]."""
    if not (seconds > 0).all():
        return missing_metric(entry, "the clock saw no time pass")
    return interval_metric(entry, ratio_interval(np.log(seconds[:, 1] / seconds[:, 0])))


def _growth(long: Generating, short: Generating, batches: list[Batch], size: int) -> Metrics:
    """FLOPs of the first token, and what every further one adds in FLOPs and in peak memory.

    `short` ends at the first token; `long` is in evaluation mode.
    """
    num_further = max(1, num_output_tokens(batches[0]) - 1)
    with evaluation_mode(short):
        first, whole = (count_samples(model, batches) for model in (short, long))
    num_issued = len(batches) * size  # samples
    doubt = None if whole.complete else "operations without a FLOP formula"
    per_further = (whole.total - first.total) / num_issued / num_further
    # At the end of the long generation the cache is at its largest, and so is the peak.
    low, high = (_peak_bytes(model, batches) for model in (short, long))
    return {
        FIRST_FLOPS.at(size): metric(FIRST_FLOPS, first.total / num_issued, doubt),
        TOKEN_FLOPS.at(size): metric(TOKEN_FLOPS, per_further, doubt),
        TOKEN_BYTES.at(size): metric(TOKEN_BYTES, (high - low) / size / num_further),
    }


def _peak_bytes(model: nn.Module, batches: list[Batch]) -> int:
    seen = (measure_inference_memory(model, batch) for batch in batches[:NUM_PEAKS])
    return max(each.peak_tensor_bytes for each in seen)
