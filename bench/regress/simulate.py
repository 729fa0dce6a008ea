"""`condbench nightly --simulate`: what the gate would get wrong, on nights whose truth is known.

Synthetic rounds go through the gate's own code. Each round's two times carry 2 % noise, 7 % of them
an outlier of +8 to +25 %, and the machine drifts: a slope of 10 % over the session and a random
walk of 0.3 % per block. The seeds are fixed: the same figures every time.

What the gate promises is a target, and one that is missed fails the command. The targets hold where
two processes of the same code are equally fast. Where they differ of their own, by chance of memory
layout, confirmed power is lower: that is printed beside it, and is no target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.regress.gate import TIME, Judged, Judgement, confirm, decide, judge
from bench.statistics import ratio_interval

NOISE = 0.02
OUTLIER_SHARE, OUTLIER_LOW, OUTLIER_HIGH = 0.07, 0.08, 0.25
SLOPE, WALK = 0.10, 0.003  # over 100 rounds; per block
STEP = 0.05  # the regression that has to be found
NUM_METRICS = 16
FIRST_LOOK = 30  # rounds of a night's first look
NUM_CONTROLS = 2  # of the A/A arm: two batch sizes; beside them the canary
OFFSET = 0.01  # sd of what two processes differ by of their own, where they do
MOST_FALSE = 0.005  # per night and metric, before and after confirmation
LEAST_POWER = {20: 0.85, FIRST_LOOK: 0.95}  # of the first look, before confirmation
LEAST_CONFIRMED, LEAST_GREEN = 0.90, 0.95


class Night:
    """An endless session that measures one metric: `more(n)` as the gate asks for it."""

    def __init__(self, change: float, seed: int, offset: float = 0.0) -> None:
        """`change`: the true relative change; `offset`: sd of what two processes differ by."""
        self.generator = np.random.default_rng(seed)
        self.log_change = np.log1p(change) + offset * self.generator.standard_normal()
        self.level = 0.0

    def more(self, num_rounds: int) -> list[float]:
        """Log cost ratios [n] of rounds in the order ABBA, BAAB, ..."""
        drift = self._drift(num_rounds)  # [n, 4]
        baseline, candidate = drift[:, [0, 3]].mean(1), drift[:, [1, 2]].mean(1)
        baseline[1::2], candidate[1::2] = candidate[1::2].copy(), baseline[1::2].copy()
        times = np.stack([candidate, baseline]) * self._noise(num_rounds)  # [2, n]
        return list(np.log(times[0] / times[1]) + self.log_change)

    def _drift(self, num_rounds: int) -> np.ndarray:
        steps = SLOPE / 400 + WALK * self.generator.standard_normal(4 * num_rounds)
        path = self.level + np.cumsum(steps)
        self.level = float(path[-1])
        return np.exp(path).reshape(num_rounds, 4)

    def _noise(self, num_rounds: int) -> np.ndarray:
        shape = (2, num_rounds)
        hit = self.generator.random(shape) < OUTLIER_SHARE
        extra = self.generator.uniform(OUTLIER_LOW, OUTLIER_HIGH, shape)
        return (1 + NOISE * self.generator.standard_normal(shape)) * (1 + hit * extra)


def first_look(change: float, num_rounds: int, num_nights: int, seed: int = 0) -> float:
    """Share of nights whose first look at `num_rounds` rounds says regressed."""
    found = (
        judge(ratio_interval(night.more(num_rounds)), TIME)
        for night in _nights(change, num_nights, seed)
    )
    return _share(found, "regressed")


@dataclass(frozen=True)
class Outcomes:
    """Shares of nights: regressed before and after the rerun, and green in the end."""

    suspected: float
    confirmed: float
    green: float


def outcomes(change: float, num_nights: int, seed: int = 0, offset: float = 0.0) -> Outcomes:
    """What becomes of nights with one metric: rounds added up to 100, regressions rerun."""
    ends = [one_night(change, seed + number, offset) for number in range(num_nights)]
    return Outcomes(
        suspected=_share((first.judgement for first, _ in ends), "regressed"),
        confirmed=_share((final.judgement for _, final in ends), "regressed"),
        green=sum(final.judgement in ("equal", "improved") for _, final in ends) / num_nights,
    )


def one_night(change: float, seed: int, offset: float = 0.0) -> tuple[Judged, Judged]:
    """A night's judgement of one metric before and after the rerun, which has noise of its own."""
    night, rerun = (Night(change, 2 * seed + which, offset) for which in range(2))
    first = decide(night.more, FIRST_LOOK)
    final, _ = confirm(first, lambda: decide(rerun.more, FIRST_LOOK))
    return first, final


@dataclass(frozen=True)
class Ends:
    """Shares of whole nights of an unchanged program."""

    green: float
    void: float
    red: float


def unchanged_nights(num_nights: int, offset: float = 0.0, seed: int = 0) -> Ends:
    """How nights of an unchanged program end: its metrics, the A/A controls and the canary."""
    number = NUM_METRICS + NUM_CONTROLS + 1
    ends = []
    for night in range(num_nights):
        start = seed + night * number
        said = [one_night(0.0, start + each, offset)[1].judgement for each in range(number)]
        ends.append(_end(said[:NUM_METRICS], said[NUM_METRICS:-1], said[-1]))
    return Ends(*(ends.count(end) / num_nights for end in ("green", "void", "red")))


def _end(metrics: Sequence[Judgement], controls: Sequence[Judgement], canary: Judgement) -> str:
    """What a night's judgements come to, as `Verdict.outcome` says it."""
    if set(controls) != {"equal"} or canary in ("regressed", "improved"):
        return "void"
    if "regressed" in metrics:
        return "red"
    return "green" if set(metrics) <= {"equal", "improved"} else "inconclusive"


def _nights(change: float, num_nights: int, seed: int) -> Iterator[Night]:
    return (Night(change, seed + number) for number in range(num_nights))


def _share(found: Iterator[Judgement], wanted: Judgement) -> float:
    seen = list(found)
    return seen.count(wanted) / len(seen)


@dataclass(frozen=True)
class Figure:
    """One line of the report, and the targets that its figures miss."""

    text: str
    missed: tuple[str, ...] = ()


def report(num_nights: int = 2000) -> Iterator[Figure]:
    """The figures, one by one as they are ready."""
    yield Figure(
        f"gate on synthetic nights: {NOISE:.0%} noise, {OUTLIER_SHARE:.0%} outliers of "
        f"+{OUTLIER_LOW:.0%} to +{OUTLIER_HIGH:.0%}, drift; {num_nights} nights each"
    )
    for number, least in LEAST_POWER.items():
        yield _first_figure(number, least, num_nights)
    yield _confirmed_figure(num_nights)
    yield _offset_figure(num_nights)
    for offset in (0.0, OFFSET):
        yield _unchanged_figure(num_nights // 10, offset)


def _first_figure(number: int, least: float, num_nights: int) -> Figure:
    false, power = (first_look(change, number, num_nights) for change in (0.0, STEP))
    return Figure(
        f"K={number}, first look, not confirmed: false alarms {_at_most(false, num_nights)} "
        f"per night and metric, finds +{STEP:.0%} in {power:.1%} (target {least:.0%})",
        _missed((false <= MOST_FALSE, "false alarms"), (power >= least, f"power at K={number}")),
    )


def _confirmed_figure(num_nights: int) -> Figure:
    null, step = (outcomes(change, num_nights) for change in (0.0, STEP))
    false = max(null.suspected, null.confirmed)
    return Figure(
        f"K={FIRST_LOOK} up to 100, two processes of the same code equally fast: "
        f"{_before_and_after(null, step, num_nights)} (target {LEAST_CONFIRMED:.0%})",
        _missed(
            (false <= MOST_FALSE, "false alarms with added rounds"),
            (step.confirmed >= LEAST_CONFIRMED, "power after confirmation"),
        ),
    )


def _offset_figure(num_nights: int) -> Figure:
    null, step = (outcomes(change, num_nights, offset=OFFSET) for change in (0.0, STEP))
    return Figure(
        f"K={FIRST_LOOK} up to 100, two processes differ by {OFFSET:.0%} of their own: "
        f"{_before_and_after(null, step, num_nights)} (no target)"
    )


def _before_and_after(null: Outcomes, step: Outcomes, num_nights: int) -> str:
    return (
        f"false alarms {_at_most(null.suspected, num_nights)} before and "
        f"{_at_most(null.confirmed, num_nights)} after the rerun, finds +{STEP:.0%} in "
        f"{step.suspected:.1%} before and {step.confirmed:.1%} after"
    )


def _unchanged_figure(num_nights: int, offset: float) -> Figure:
    ends = unchanged_nights(num_nights, offset)
    where = f", processes differ by {offset:.0%}" if offset else ""
    target = "no target" if offset else f"target {LEAST_GREEN:.0%}"
    return Figure(
        f"an unchanged program with {NUM_METRICS} metrics and {NUM_CONTROLS} controls{where}: "
        f"green in {ends.green:.1%} ({target}), void in {ends.void:.1%}, regressed in "
        f"{ends.red:.1%} of {num_nights} nights",
        () if offset else _missed((ends.green >= LEAST_GREEN, "green nights")),
    )


def _missed(*targets: tuple[bool, str]) -> tuple[str, ...]:
    """The names of the targets that are not met."""
    return tuple(name for is_met, name in targets if not is_met)


def _at_most(share: float, number: int) -> str:
    """A share with what it stands for: none in n nights is at most 3/n (95 %)."""
    return f"{share:.2%}" if share else f"0 of {number} (at most {3 / number:.2%})"
