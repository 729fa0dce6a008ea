"""The time meter on work with a known ratio, beside other ways of timing.

A pass is a fixed number of small matrix products; the baseline does 5 % more of them, or as many.
Every estimator times the same work in the same session: without added load, and with another
process that keeps one core busy. Acceptance: median error at most 1 % (2 % with a busy core);
without the busy core also a spread of at most 1 % and intervals that contain the true ratio in at
least 85 % of sessions; in at most one session of 20 may the interval of a model against itself lie
more than 1 % away from 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import benchmark

from bench.measure.plausibility.speed import CONTROL_MARGIN
from bench.meters.conditions import pinned_threads
from bench.meters.time.paired import compare

QUIET, BUSY = "no added load", "one busy core"
PRODUCTS = 400  # per pass: a few milliseconds
ROUNDS = 20
# A short warm-up is enough here: the work has no caches to fill and compiles nothing.
SETTINGS: dict[str, Any] = {"rounds": ROUNDS, "warmup_s": 0.3, "block_ms": 50.0}


@dataclass
class Sessions:
    """One estimator's results for one known ratio, one per session."""

    truth: float
    estimator: str
    ratios: list[float] = field(default_factory=list)
    num_covered: int | None = None  # intervals that contain the truth; None without intervals
    num_different: int | None = None  # intervals more than 1 % away from 1

    @property
    def errors(self) -> np.ndarray:
        """Relative errors, one per session."""
        return np.array(self.ratios) / self.truth - 1

    def row(self) -> list[str]:
        """A row of the table."""
        errors = 100 * self.errors
        share = "-" if self.num_covered is None else f"{self.num_covered / len(errors):.0%}"
        # At a true ratio other than 1 such an interval is right.
        different = "-" if self.num_different is None or self.truth != 1 else self.num_different
        return [
            f"{self.truth:.2f}",
            self.estimator,
            f"{np.median(errors):+.2f} %",
            f"{errors.std(ddof=1):.2f} %",
            f"{abs(errors).max():.2f} %",
            share,
            str(different),
        ]


HEADERS = [
    "true ratio",
    "estimator",
    "median error",
    "sd",
    "worst",
    "interval contains it",
    "A/A found different",
]


def operands() -> list[torch.Tensor]:
    """Two 64 x 64 matrices and an output for their product, shared by both sides of a ratio.

    The location of matrices in memory changes their product's time by tenths of a percent, equally
    in every session of a process: with separate operands the true ratio would not be known.
    """
    return [torch.randn(64, 64) for _ in range(3)]


def busy_loop(num_products: int, matrices: list[torch.Tensor]) -> Callable[[Any], None]:
    """A model that multiplies the first two of `matrices` `num_products` times."""
    left, right, out = matrices

    def run(batch: Any) -> None:
        for _ in range(num_products):
            torch.mm(left, right, out=out)  # allocation would add time of its own

    return run


def measure_sessions(truth: float, num_sessions: int) -> list[Sessions]:
    """Every estimator's results in `num_sessions` sessions of one known ratio."""
    matrices = operands()
    candidate = busy_loop(PRODUCTS, matrices)
    baseline = busy_loop(round(PRODUCTS * truth), matrices)
    ours = Sessions(truth, "condbench, ABBA rounds", num_covered=0, num_different=0)
    others = {"sequential medians": _sequential, "torch.utils.benchmark": _torch_benchmark}
    found = {name: Sessions(truth, name) for name in others}
    with pinned_threads(1), torch.inference_mode():
        # Session by session, so that a noisy minute affects every estimator.
        for _ in range(num_sessions):
            _add_ours(ours, candidate, baseline)
            for name, estimate in others.items():
                found[name].ratios.append(estimate(baseline) / estimate(candidate))
    return [ours, *found.values()]


def _add_ours(sessions: Sessions, candidate: Callable, baseline: Callable) -> None:
    timing = compare(candidate, baseline, [[0]], **SETTINGS)
    assert timing.ratio is not None
    assert timing.ci_low is not None
    assert timing.ci_high is not None
    assert sessions.num_covered is not None
    assert sessions.num_different is not None
    sessions.ratios.append(timing.ratio)
    sessions.num_covered += timing.ci_low <= sessions.truth <= timing.ci_high
    away = timing.ci_low > 1 + CONTROL_MARGIN or timing.ci_high < 1 - CONTROL_MARGIN
    sessions.num_different += away


def _sequential(model: Callable) -> float:
    """Median seconds of as many blocks as ABBA has; the models are timed one after the other."""
    times = []
    for _ in range(2 * ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(10):
            model(None)
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times))


def _torch_benchmark(model: Callable) -> float:
    timer = benchmark.Timer("model(None)", globals={"model": model}, num_threads=1)
    return float(timer.blocked_autorange(min_run_time=0.25).median)


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that keeps the first core of the affinity mask busy."""
    # It ends by itself when this process dies.
    spin = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"
    hog = subprocess.Popen([sys.executable, "-c", spin, str(os.getpid())])
    try:
        os.sched_setaffinity(hog.pid, {min(os.sched_getaffinity(0))})
        yield
    finally:
        hog.kill()
        hog.wait()


def failures(sessions: Sessions, load: str) -> list[str]:
    """The acceptance limits that our meter misses on this machine."""
    limit = 0.01 if load == QUIET else 0.02
    error = float(np.median(sessions.errors))
    num = len(sessions.ratios)
    checks = {
        f"median error {error:+.2%}": abs(error) <= limit,
        f"spread {sessions.errors.std(ddof=1):.2%}": load != QUIET
        or sessions.errors.std(ddof=1) <= 0.01,
        f"{sessions.num_covered} of {num} intervals contain the truth": load != QUIET
        or (sessions.num_covered or 0) >= 0.85 * num,
        f"{sessions.num_different} of {num} A/A sessions found different": sessions.truth != 1
        or (sessions.num_different or 0) <= max(1, num // 20),
    }
    name = f"time, ratio {sessions.truth:.2f}, {load}"
    return [f"{name}: {what}" for what, good in checks.items() if not good]


class EarlyExit:
    """Eight layers of width 256; a sample exits after the layer given by its input."""

    def __init__(self, always_last: bool) -> None:
        self.layers = [torch.nn.Linear(256, 256) for _ in range(8)]
        self.always_last = always_last

    def __call__(self, batch: tuple[torch.Tensor, int]) -> torch.Tensor:
        hidden, last = batch
        for layer in self.layers[: 8 if self.always_last else last]:
            hidden = torch.relu(layer(hidden))
        return hidden


def repeated_input_rows() -> list[list[str]]:
    """Apparent speed-up of an input-dependent model when one input is repeated."""
    generator = torch.Generator().manual_seed(0)
    exits = [1] * 32 + [4] * 16 + [8] * 16  # of 64 inputs: half exit after the first layer
    batches = [(torch.randn(1, 256, generator=generator), last) for last in exits]
    theory = 8 * len(exits) / sum(exits)
    rows = []
    with pinned_threads(1):
        for name, chosen, truth in (
            ("all 64 inputs, equally often", batches, theory),
            ("one easy input repeated", batches[:1], 8.0),
            ("one hard input repeated", batches[-1:], 1.0),
        ):
            timing = compare(EarlyExit(False), EarlyExit(True), chosen, **SETTINGS)
            assert timing.ratio is not None
            rows.append([name, f"{truth:.2f}", f"{timing.ratio:.2f}"])
    return rows
