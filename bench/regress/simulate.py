"""`condbench nightly --simulate`: the gate's error rates, on nights whose true change is known.

Synthetic rounds go through the gate's own code. Each round's two times carry 2 % noise, 7 % of them
an outlier of +8 to +25 %, and the machine drifts: a slope of 10 % over a night and a random walk of
0.3 % per block. The seeds are fixed: the same figures every time.

Each promise of the gate is a target, and a missed target fails the command. The targets hold where
two processes of the same code are equally fast. Where they differ, because memory layout differs,
confirmed power is lower: it is printed beside the targets and is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.regress.gate import TIME, GateResult, Judgement, confirm, decide, judge
from bench.statistics import ratio_interval

NOISE = 0.02
OUTLIER_SHARE, OUTLIER_LOW, OUTLIER_HIGH = 0.07, 0.08, 0.25
SLOPE, WALK = 0.10, 0.003  # over 100 rounds; per block
STEP = 0.05  # the regression that must be found
NUM_METRICS = 16
FIRST_LOOK = 30  # rounds of a night's first look
NUM_CONTROLS = 2  # of the A/A arm: two batch sizes; beside them the canary
OFFSET = 0.01  # sd of the difference between two processes of the same code, where there is one
# The targets.
MAX_FALSE_ALARMS = 0.005  # per night and metric, before and after confirmation
MIN_POWER = {20: 0.85, FIRST_LOOK: 0.95}  # by rounds of the first look, before confirmation
MIN_CONFIRMED_POWER, MIN_GREEN = 0.90, 0.95


class SyntheticMetric:
    """An endless source of rounds of one metric: `measure(n)` gives the gate n further rounds."""

    def __init__(self, change: float, seed: int, offset: float = 0.0) -> None:
        """`change`: the true relative change; `offset`: sd of the processes' own difference."""
        self.generator = np.random.default_rng(seed)
        # One draw for all rounds: memory layout is fixed as long as a process lives.
        self.log_change = np.log1p(change) + offset * self.generator.standard_normal()
        self.level = 0.0  # log of the machine's slowness, where the last block left it

    def measure(self, num_rounds: int) -> list[float]:
        """Log cost ratios [n] of rounds in the order ABBA, BAAB, ..."""
        drift = self._drift(num_rounds)  # [n, 4]
        baseline, candidate = drift[:, [0, 3]].mean(1), drift[:, [1, 2]].mean(1)  # [n] each
        # Every second round is BAAB: the sides swap their blocks. copy(): slices are views.
        baseline[1::2], candidate[1::2] = candidate[1::2].copy(), baseline[1::2].copy()
        times = np.stack([candidate, baseline]) * self._noise(num_rounds)  # [2, n]
        return list(np.log(times[0] / times[1]) + self.log_change)

    def _drift(self, num_rounds: int) -> np.ndarray:
        """The machine's slowness in each block [n, 4], continued from the last call."""
        steps = SLOPE / 400 + WALK * self.generator.standard_normal(4 * num_rounds)  # 400 blocks
        path = self.level + np.cumsum(steps)
        self.level = float(path[-1])
        return np.exp(path).reshape(num_rounds, 4)

    def _noise(self, num_rounds: int) -> np.ndarray:
        shape = (2, num_rounds)  # candidate, baseline
        hit = self.generator.random(shape) < OUTLIER_SHARE
        extra = self.generator.uniform(OUTLIER_LOW, OUTLIER_HIGH, shape)
        return (1 + NOISE * self.generator.standard_normal(shape)) * (1 + hit * extra)


def first_look_alarms(change: float, num_rounds: int, num_nights: int, seed: int = 0) -> float:
    """Share of nights whose first look, at `num_rounds` rounds, is regressed."""
    metrics = (SyntheticMetric(change, seed + number) for number in range(num_nights))
    looks = (judge(ratio_interval(each.measure(num_rounds)), TIME) for each in metrics)
    return _share(looks, "regressed")


@dataclass(frozen=True)
class MetricShares:
    """Shares of nights with one metric: regressed before and after the rerun, green in the end."""

    suspected: float
    confirmed: float
    green: float


def simulate_metric(
    change: float, num_nights: int, seed: int = 0, offset: float = 0.0
) -> MetricShares:
    """Nights with one metric, gated in full: rounds added up to 100, regressions rerun."""
    ends = [gate_metric(change, seed + number, offset) for number in range(num_nights)]
    return MetricShares(
        suspected=_share((first.judgement for first, _ in ends), "regressed"),
        confirmed=_share((final.judgement for _, final in ends), "regressed"),
        green=sum(final.judgement in ("equal", "improved") for _, final in ends) / num_nights,
    )


def gate_metric(change: float, seed: int, offset: float = 0.0) -> tuple[GateResult, GateResult]:
    """One metric's result before and after the rerun, which has noise of its own."""
    # Seeds 2s and 2s + 1: first run and rerun are independent, as new processes are.
    first_run, rerun = (SyntheticMetric(change, 2 * seed + which, offset) for which in range(2))
    first = decide(first_run.measure, FIRST_LOOK)
    final, _ = confirm(first, lambda: decide(rerun.measure, FIRST_LOOK))
    return first, final


@dataclass(frozen=True)
class NightShares:
    """Shares of whole nights of an unchanged program, by how they end."""

    green: float
    void: float
    red: float


def simulate_nights(num_nights: int, offset: float = 0.0, seed: int = 0) -> NightShares:
    """Nights of an unchanged program: its metrics, the A/A controls and the canary."""
    number = NUM_METRICS + NUM_CONTROLS + 1
    ends = []
    for night in range(num_nights):
        start = seed + night * number
        judgements = [gate_metric(0.0, start + each, offset)[1].judgement for each in range(number)]
        ends.append(_end(judgements[:NUM_METRICS], judgements[NUM_METRICS:-1], judgements[-1]))
    return NightShares(*(ends.count(end) / num_nights for end in ("green", "void", "red")))


def _end(metrics: Sequence[Judgement], controls: Sequence[Judgement], canary: Judgement) -> str:
    """How a night with these judgements ends, by the rules of `Verdict.outcome`."""
    if set(controls) != {"equal"} or canary in ("regressed", "improved"):
        return "void"
    if "regressed" in metrics:
        return "red"
    return "green" if set(metrics) <= {"equal", "improved"} else "inconclusive"


def _share(judgements: Iterator[Judgement], counted: Judgement) -> float:
    found = list(judgements)
    return found.count(counted) / len(found)


@dataclass(frozen=True)
class Figure:
    """One line of the output, and the targets that its figures miss."""

    text: str
    missed: tuple[str, ...] = ()


def error_rates(num_nights: int = 2000) -> Iterator[Figure]:
    """The figures, one by one as they are ready."""
    yield Figure(
        f"gate on synthetic nights: {NOISE:.0%} noise, {OUTLIER_SHARE:.0%} outliers of "
        f"+{OUTLIER_LOW:.0%} to +{OUTLIER_HIGH:.0%}, drift; {num_nights} nights each"
    )
    for num_rounds, target in MIN_POWER.items():
        yield _first_look_figure(num_rounds, target, num_nights)
    yield _confirmed_figure(num_nights)
    yield _offset_figure(num_nights)
    # A whole night holds 19 metrics and controls: a tenth of the nights takes as long.
    for offset in (0.0, OFFSET):
        yield _unchanged_figure(num_nights // 10, offset)


def _first_look_figure(num_rounds: int, target: float, num_nights: int) -> Figure:
    false, power = (first_look_alarms(change, num_rounds, num_nights) for change in (0.0, STEP))
    return Figure(
        f"K={num_rounds}, first look, not confirmed: false alarms {_with_bound(false, num_nights)} "
        f"per night and metric, finds +{STEP:.0%} in {power:.1%} (target {target:.0%})",
        _missed(
            (false <= MAX_FALSE_ALARMS, "false alarms"),
            (power >= target, f"power at K={num_rounds}"),
        ),
    )


def _confirmed_figure(num_nights: int) -> Figure:
    null, step = (simulate_metric(change, num_nights) for change in (0.0, STEP))
    false = max(null.suspected, null.confirmed)
    return Figure(
        f"K={FIRST_LOOK} up to 100, two processes of the same code equally fast: "
        f"{_before_and_after(null, step, num_nights)} (target {MIN_CONFIRMED_POWER:.0%})",
        _missed(
            (false <= MAX_FALSE_ALARMS, "false alarms with added rounds"),
            (step.confirmed >= MIN_CONFIRMED_POWER, "power after confirmation"),
        ),
    )


def _offset_figure(num_nights: int) -> Figure:
    null, step = (simulate_metric(change, num_nights, offset=OFFSET) for change in (0.0, STEP))
    return Figure(
        f"K={FIRST_LOOK} up to 100, two processes of the same code differ by {OFFSET:.0%}: "
        f"{_before_and_after(null, step, num_nights)} (no target)"
    )


def _before_and_after(null: MetricShares, step: MetricShares, num_nights: int) -> str:
    return (
        f"false alarms {_with_bound(null.suspected, num_nights)} before and "
        f"{_with_bound(null.confirmed, num_nights)} after the rerun, finds +{STEP:.0%} in "
        f"{step.suspected:.1%} before and {step.confirmed:.1%} after"
    )


def _unchanged_figure(num_nights: int, offset: float) -> Figure:
    ends = simulate_nights(num_nights, offset)
    where = f", processes differ by {offset:.0%}" if offset else ""
    target = "no target" if offset else f"target {MIN_GREEN:.0%}"
    return Figure(
        f"an unchanged program with {NUM_METRICS} metrics and {NUM_CONTROLS} controls{where}: "
        f"green in {ends.green:.1%} ({target}), void in {ends.void:.1%}, regressed in "
        f"{ends.red:.1%} of {num_nights} nights",
        () if offset else _missed((ends.green >= MIN_GREEN, "green nights")),
    )


def _missed(*targets: tuple[bool, str]) -> tuple[str, ...]:
    """The names of the targets that are not met."""
    return tuple(name for is_met, name in targets if not is_met)


def _with_bound(share: float, number: int) -> str:
    """A share as text; for none in n nights the 95 % upper bound 3/n (rule of three)."""
    return f"{share:.2%}" if share else f"0 of {number} (at most {3 / number:.2%})"
