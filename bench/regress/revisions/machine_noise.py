"""Whether this machine can time at all: found out in the first minute, before anything is trained.

Two workers of the baseline time the canary in turns, as the two sides of the A/A control later time
a trained model. Where equal work differs so much that no number of rounds would make that control
equal, training for it would be wasted: other load, more threads than cores, a throttled container.
"""

from __future__ import annotations

import time
from typing import Any

from bench.records import environment
from bench.regress.cells import Cell
from bench.regress.checkouts.planned_trials import Content
from bench.regress.gate import EQUAL, TIME, is_hopeless
from bench.regress.revisions.deadline import OutOfTime
from bench.regress.revisions.metrics import CANARY
from bench.regress.revisions.night import Night
from bench.regress.revisions.paired_rounds import Sides, TimedRounds, warm_up
from bench.regress.revisions.worker_process import WorkerFailed
from bench.regress.verdict import Row
from bench.statistics import Interval, ratio_interval

NAME, METRIC = "this machine", "time canary before training"
NUM_SERIES = 2  # both must be hopeless: another program's burst of seconds ends by itself
NUM_ROUNDS, MIN_ROUNDS = 20, 6  # fewer than six give no interval
# With the warm-up, 20 times this at most, and the start of two processes: within a minute.
SERIES_S, WARMUP_S = 12.0, 0.5
REPLY_S = 60.0


def try_machine(night: Night, cell: Cell, content: Content) -> Row | None:
    """The row of a control that this machine cannot pass; None where it may, or was not tried.

    The trial gives the device, its threads and the length of a block. An older revision whose
    worker cannot time the canary alone is not tried.
    """
    night.report_progress(f"timing noise of {NAME}, before anything is trained")
    try:
        with night.device(content) as variables:
            pair = night.trial_pair(cell, (night.old, night.old), (content, content), variables)
            with pair.started(REPLY_S) as sides:
                num_threads = _prepare(sides, content["config"]["gpu"])
                ratio = _hopeless_ratio(sides, float(pair.measure["block_ms"]))
    except WorkerFailed:
        night.report_progress("  not tried: the baseline's worker cannot time without a model")
        return None
    except OutOfTime:  # the control will say so
        return None
    if ratio is None:
        return None
    reason = _reason(ratio, num_threads)
    night.report_progress(f"  {reason}")
    return Row(NAME, METRIC, "inconclusive", TIME, ratio=ratio, reason=reason)


def _prepare(sides: Sides, gpu: dict[str, Any]) -> int:
    """Make both workers ready for the canary; the threads that it runs with."""
    device = "cpu" if gpu["kind"] == "cpu" else "cuda"
    for side in sides:
        side.send("canary", device=device, threads=gpu.get("threads"), warmup_s=WARMUP_S)
    return max(int(side.receive()["num_threads"]) for side in sides)


def _hopeless_ratio(sides: Sides, block_ms: float) -> Interval | None:
    """The last series' ratio where every series is hopeless, else None."""
    rounds = warm_up(sides, CANARY, block_ms)
    for _ in range(NUM_SERIES):
        log_ratios = _series(rounds)
        ratio = ratio_interval(log_ratios)
        if not is_hopeless(ratio, len(log_ratios)):
            return None
    return ratio


def _series(rounds: TimedRounds) -> list[float]:
    """Log ratios of twenty rounds, or of as many as the time allows."""
    started_s, found = time.monotonic(), list(rounds.measure(MIN_ROUNDS))
    while len(found) < NUM_ROUNDS and time.monotonic() - started_s < SERIES_S:
        found += rounds.measure(1)
    return found


def _reason(ratio: Interval, num_threads: int) -> str:
    cores = environment.fingerprint()["num_cores"]
    return (
        f"equal work differs by a factor of {ratio.low:.2f} to {ratio.high:.2f} between two "
        f"processes, and {EQUAL:.0%} must be resolved (load {environment.load()}, {num_threads} "
        f"threads on {cores} cores): end other programs, lower gpu.threads, or take another machine"
    )
