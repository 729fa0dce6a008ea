"""Time: a candidate against a baseline in interleaved rounds, in one process, on real inputs.

The unit of work is one pass over a fixed list of batches, so that every sample is timed equally
often. A round runs blocks of whole passes in the order ABBA or, alternately, BAAB: slow drift of
clocks and temperature affects both models alike, and each round gives one ratio of its own. The
result is the median of these ratios (paired or "duet" benchmarking: Bulej et al., ICPE 2020).

    timing = compare(method, dense, batches, rounds=20)
    timing.ratio              # 1.7: the method is 1.7 times as fast
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.meters.conditions import evaluation_mode, gc_disabled
from bench.meters.guard import refuse_if_watched
from bench.meters.shared.settings import COLLECTING, settings_in_force
from bench.meters.shared.state import settings_changes
from bench.meters.time.clocks import StateReader, state_reader
from bench.meters.time.rounds import Round, run_rounds
from bench.meters.time.stopwatch import Stopwatch, device_of, stopwatch_for
from bench.meters.time.warmup import WarmUp, stays_steady, warm_up
from bench.statistics import interquartile_range, num_outliers, ratio_interval

Model = Callable[[Any], object]
NOISE_LIMITS = {"cpu": 0.03, "cuda": 0.02}  # of an A/A control; above, the session is noisy


@dataclass(frozen=True)
class PairedTiming:
    """A candidate beside a baseline. Ratios are baseline time / candidate time: above 1 is faster.

    `ratio` None: no round was valid; bounds None: fewer than six were; `reason` explains both.
    """

    ratio: float | None
    ci_low: float | None
    ci_high: float | None
    noise_floor: float | None  # of this machine and session, from `control`
    steady: bool  # times had settled in the warm-up, and stayed so in the rounds
    rounds: tuple[Round, ...]  # all of them, invalid ones included
    num_samples: int  # per pass
    num_passes: tuple[int, int]  # per block: candidate, baseline
    num_outliers: int  # rounds beyond three interquartile ranges; kept
    num_threads: int  # in force while timing
    warmup_s: float
    num_recompiles: int = 0  # graphs compiled inside timed rounds: any makes the timing invalid
    reason: str | None = None

    @property
    def valid_rounds(self) -> list[Round]:
        """Rounds without a reason against them."""
        return [each for each in self.rounds if each.reason is None]

    @property
    def candidate_s(self) -> float:
        """Median seconds of the candidate's pass."""
        return float(np.median([each.candidate_s for each in self.valid_rounds]))

    @property
    def baseline_s(self) -> float:
        """Median seconds of the baseline's pass."""
        return float(np.median([each.baseline_s for each in self.valid_rounds]))

    @property
    def candidate_iqr_s(self) -> float:
        """Interquartile range of the candidate's pass."""
        return interquartile_range([each.candidate_s for each in self.valid_rounds])

    @property
    def candidate_samples_per_s(self) -> float:
        """Throughput of the candidate at these batches' size."""
        return self.num_samples / self.candidate_s

    @property
    def baseline_samples_per_s(self) -> float:
        """Throughput of the baseline at these batches' size."""
        return self.num_samples / self.baseline_s

    @property
    def candidate_device_share(self) -> float | None:
        """Device time / host time of the candidate: well below 1 is launch-bound; None on a CPU."""
        shares = [
            each.candidate_device_s / each.candidate_s
            for each in self.valid_rounds
            if each.candidate_device_s is not None
        ]
        return float(np.median(shares)) if shares else None


def compare(
    candidate: Model,
    baseline: Model,
    batches: Sequence[Any],
    *,
    rounds: int = 20,
    warmup_s: float = 3.0,
    block_ms: float = 50.0,
    noise_floor: float | None = None,
    stopwatch: Stopwatch | None = None,
    read_state: StateReader | None = None,
) -> PairedTiming:
    """Time `candidate` against `baseline` over `batches` (real samples, see `sampling`).

    Both run in evaluation and inference mode with the caller's threads (`pinned_threads`). Each of
    `rounds` has four blocks of whole passes, as many as take `block_ms` typically. Rounds in which
    the GPU slowed its clocks are repeated, up to twice as many in all. `stopwatch` and
    `read_state` default to those of the batches' device. Raises MeterStateError under a dispatch
    mode or profiler and ValueError without batches or rounds.
    """
    if not batches or rounds < 1:
        raise ValueError("a comparison needs at least one batch and one round")
    refuse_if_watched("time")
    device = device_of(batches[0])
    watch = stopwatch or stopwatch_for(device)
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(candidate, baseline))
        read = read_state or stack.enter_context(state_reader(device))
        passes = (_passes(candidate, batches), _passes(baseline, batches))
        # Before the first pass of either; garbage is not collected in the rounds.
        settled = settings_in_force() | {COLLECTING: False}
        warm = warm_up(passes, watch, warmup_s)
        # At least one pass: a pass longer than `block_ms` makes a longer block.
        repeats = tuple(max(1, math.ceil(block_ms / 1e3 / each)) for each in warm.pass_s)
        graphs = _num_graphs()
        stack.enter_context(gc_disabled())  # after the warm-up, whose garbage it collects
        changes = partial(settings_changes, settled)
        timed = run_rounds(passes, repeats, rounds, watch, read, changes)
    warm = replace(warm, steady=stays_steady(warm, _seconds(timed)))
    num_samples = sum(len(batch) for batch in batches)
    timing = _without_ratio(timed, warm, repeats, num_samples, _num_graphs() - graphs)
    return _with_ratio(replace(timing, noise_floor=noise_floor), rounds)


def run_control(model: Model, batches: Sequence[Any], **settings: Any) -> PairedTiming:
    """The A/A control: `model` against a copy of itself, with `compare`'s settings.

    The location of weights in memory is worth tenths of a percent, which one object timed twice
    would not show; a model that cannot be copied is timed twice. `noise_floor` is the largest
    deviation from 1 inside the interval: smaller differences are not resolved on this machine in
    this session. None without an interval.
    """
    timing = compare(model, copy_or_same(model), batches, **settings)
    if timing.ci_low is None or timing.ci_high is None:
        return timing
    return replace(timing, noise_floor=max(abs(timing.ci_low - 1), abs(timing.ci_high - 1)))


def copy_or_same(model: Model) -> Model:
    """A copy of the model, elsewhere in memory; the model itself where it cannot be copied."""
    try:
        return deepcopy(model)
    except Exception:  # a model may hold anything: locks, generators, tensors with a history
        return model


def _passes(model: Model, batches: Sequence[Any]) -> Callable[[int], None]:
    """A function `run(n)`: n whole passes over the batches."""

    def run(num_passes: int) -> None:
        for _ in range(num_passes):
            for batch in batches:
                model(batch)

    return run


def _seconds(rounds: Sequence[Round]) -> tuple[list[float], list[float]]:
    """Seconds of a pass of candidate and baseline in each valid round."""
    valid = [each for each in rounds if each.reason is None]
    return [each.candidate_s for each in valid], [each.baseline_s for each in valid]


def _without_ratio(
    rounds: tuple[Round, ...],
    warm: WarmUp,
    repeats: tuple[int, ...],
    num_samples: int,
    num_recompiles: int,
) -> PairedTiming:
    """The facts of a timing; `_with_ratio` adds what the rounds result in."""
    return PairedTiming(
        ratio=None,
        ci_low=None,
        ci_high=None,
        noise_floor=None,
        steady=warm.steady,
        rounds=rounds,
        num_samples=num_samples,
        num_passes=(repeats[0], repeats[1]),
        num_outliers=0,
        num_threads=torch.get_num_threads(),
        warmup_s=warm.elapsed_s,
        num_recompiles=num_recompiles,
    )


def _with_ratio(timing: PairedTiming, requested: int) -> PairedTiming:
    """The timing completed by its ratio, interval, outliers and the reason against it, if any."""
    log_ratios = [each.log_ratio for each in timing.valid_rounds]
    if not log_ratios:
        return replace(timing, reason=timing.rounds[0].reason)
    interval = ratio_interval(log_ratios)
    # The most serious reason is assigned last.
    reason = interval.reason
    if len(log_ratios) < requested:
        first = next((each.reason for each in timing.rounds if each.reason), "unknown")
        reason = f"only {len(log_ratios)} of {requested} rounds count: {first}"
    if timing.num_recompiles:
        reason = f"{timing.num_recompiles} graphs were compiled inside the timed rounds"
    return replace(
        timing,
        ratio=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        num_outliers=num_outliers(log_ratios),
        reason=reason,
    )


def _num_graphs() -> int:
    """Graphs that torch.compile has made so far in this process."""
    # Importing dynamo takes seconds; a process that never compiled has not imported it.
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0
