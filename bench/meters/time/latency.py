"""Latency at batch 1: the time of each real input, and percentiles over inputs.

A repeat is one pass over all inputs, so that no input is timed twice in a row with warm branches
and caches. Each input's latency is the median of its repeats; percentiles are taken over inputs,
never over repeats, and only where there are enough inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.meters.conditions import evaluation_mode, gc_disabled
from bench.meters.guard import refuse_if_watched
from bench.meters.time.stopwatch import Stopwatch, device_of, stopwatch_for
from bench.statistics import Interval, quantile_interval

MIN_REPEATS = 5  # below, one disturbed repeat can move an input's median


@dataclass(frozen=True)
class Latency:
    """Milliseconds per input at batch 1."""

    per_input_ms: NDArray[np.float64]  # [N] in the inputs' order: median over repeats
    num_repeats: int

    @property
    def mean_ms(self) -> float:
        """Mean over inputs."""
        return float(self.per_input_ms.mean())

    def percentile(self, percent: float) -> Interval:
        """p`percent` over inputs with its interval; None with a reason below 10/(1-q) inputs."""
        return quantile_interval(self.per_input_ms, percent / 100)


def time_each_input(
    model: Callable[[Any], object],
    inputs: Sequence[Any],
    *,
    repeats: int = MIN_REPEATS,
    stopwatch: Stopwatch | None = None,
) -> Latency:
    """Time `model` on each of `inputs` (batches of one sample) `repeats` times, after a dry pass.

    Raises ValueError for inputs that are not of batch size 1 or fewer than five repeats, and
    MeterStateError under a dispatch mode or profiler.
    """
    if not inputs or any(len(each) != 1 for each in inputs):
        raise ValueError("latency needs inputs of batch size 1")
    if repeats < MIN_REPEATS:
        raise ValueError(f"an input's latency is a median of at least {MIN_REPEATS} repeats")
    refuse_if_watched("latency")
    watch = stopwatch or stopwatch_for(device_of(inputs[0]))
    seconds = np.empty((repeats, len(inputs)))  # [R, N]
    with evaluation_mode(model), gc_disabled():
        for each in inputs:  # a dry pass over all of them: each may take another path
            model(each)
        for repeat in range(repeats):
            for position, each in enumerate(inputs):
                seconds[repeat, position] = watch.measure(partial(model, each)).host_s
    # Host time: at batch 1 the caller waits for launches too.
    return Latency(np.median(seconds, axis=0) * 1e3, repeats)
