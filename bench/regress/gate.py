"""The statistical gate: from paired rounds to regressed, improved, equal or inconclusive.

A cost ratio is candidate / baseline: above 1 the candidate costs more. Its interval decides:

    regressed      the interval's low end lies above the margin (+2 % time, +3 % energy)
    improved       its high end lies below the mirrored margin
    equal          the whole interval lies inside +-5 %
    inconclusive   none of these: rounds are added up to 100, then it stays so

The first that holds counts: [1.025, 1.045] is regressed although it lies inside +-5 %.
Inconclusive is never green, and a suspected regression counts once a second, independent
measurement shows it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from bench.statistics import LEVEL, Interval, mean_interval, ratio_interval

# These words are stored in verdict.json and in the history: renaming one hides earlier nights.
Judgement = Literal["regressed", "improved", "equal", "inconclusive"]
MeasureRounds = Callable[[int], Sequence[float]]  # n -> log cost ratios of n further rounds

MAX_ROUNDS = 100
EQUAL = 0.05  # half-width of what counts as equal


@dataclass(frozen=True)
class Margins:
    """Relative changes: beyond `change` it counts, within `equal` on both sides it does not."""

    change: float
    equal: float = EQUAL


TIME = Margins(0.02)
ENERGY = Margins(0.03)  # wider: at most ten windows, where a time has up to a hundred rounds
QUALITY = Margins(0.02)


def judge(ratio: Interval, margins: Margins = TIME) -> Judgement:
    """The judgement of a cost ratio's interval (candidate / baseline, 1 is no change)."""
    if ratio.low is None or ratio.high is None:
        return "inconclusive"
    if ratio.low > 1 + margins.change:
        return "regressed"
    # Mirrored on the log scale, so that swapping the sides swaps regressed and improved.
    if ratio.high < 1 / (1 + margins.change):
        return "improved"
    if ratio.low >= 1 - margins.equal and ratio.high <= 1 + margins.equal:
        return "equal"
    return "inconclusive"


@dataclass(frozen=True)
class GateResult:
    """A cost ratio with its interval, its judgement, and how many looks that took."""

    ratio: Interval
    judgement: Judgement
    num_looks: int


def look_schedule(start: int, max_rounds: int = MAX_ROUNDS) -> Iterator[int]:
    """After how many rounds to look: `start`, twice that and so on, last at `max_rounds`."""
    # Doubling keeps the looks few: each one adds its own chance of a false alarm.
    number = min(start, max_rounds)
    while number < max_rounds:
        yield number
        number *= 2
    yield max_rounds


def mean_ratio(log_ratios: Sequence[float]) -> Interval:
    """The geometric mean of a few long windows' ratios, with Student's t interval."""
    return mean_interval(log_ratios).map(math.exp)


def decide(
    measure: MeasureRounds,
    start: int,
    margins: Margins = TIME,
    max_rounds: int = MAX_ROUNDS,
    interval: Callable[[Sequence[float]], Interval] = ratio_interval,
    give_up: Callable[[Interval, int], bool] | None = None,
) -> GateResult:
    """Measure `start` rounds, and more while they are inconclusive, `max_rounds` at most.

    Fewer where `give_up(ratio, rounds)` finds that more would not help.

    `measure(n)` runs n further rounds and returns their log cost ratios; `interval` turns all of
    them into a ratio: the median for times, `mean_ratio` for energy windows, which are few.
    """
    rounds: list[float] = []
    for num_looks, num_rounds in enumerate(look_schedule(start, max_rounds), start=1):
        # Earlier rounds are kept: every look is at all rounds so far.
        rounds += measure(num_rounds - len(rounds))
        ratio = interval(rounds)
        result = GateResult(ratio, judge(ratio, margins), num_looks)
        if result.judgement != "inconclusive" or (give_up and give_up(ratio, len(rounds))):
            break
    return result


def is_hopeless(ratio: Interval, num_rounds: int, max_rounds: int = MAX_ROUNDS) -> bool:
    """Whether an A/A control can no longer come out equal: too wide, even after all rounds.

    An interval narrows with the root of the number of rounds. One that would still be twice as wide
    as what counts as equal is given up; a chance of being wrong costs a comparison, no error.
    """
    if ratio.low is None or ratio.high is None or ratio.low <= 0:
        return num_rounds >= max_rounds
    half_width = math.log(ratio.high / ratio.low) / 2 * math.sqrt(num_rounds / max_rounds)
    return half_width > 2 * EQUAL


class HasJudgement(Protocol):
    """Anything that carries a judgement: a gate's result, a row of a verdict."""

    @property
    def judgement(self) -> Judgement: ...


T = TypeVar("T", bound=HasJudgement)


def confirm(first: T, rerun: Callable[[], T]) -> tuple[T, T | None]:
    """The result that counts after at most one rerun, and the rerun's (None if none was needed).

    A change, for the worse or the better, counts if the rerun shows it too. If it does not, the
    rerun's result counts: two processes of one program can differ by several per cent.
    """
    if first.judgement not in ("regressed", "improved"):
        return first, None
    second = rerun()
    return (first if second.judgement == first.judgement else second), second


def family_wise_error(num_metrics: int, num_looks: int, *, confirmed: bool) -> float:
    """Bound on the chance of any false regression in a family of metrics, `num_looks` at most each.

    Where no true change exceeds its margin, one look at a 95 % interval is wrong on the upper side
    with 2.5 %. Looks and metrics add up (Bonferroni), and an independent rerun has to repeat the
    error. For an unchanged program the chance is far smaller: `condbench nightly --simulate`.
    """
    each = min(1.0, num_looks * (1 - LEVEL) / 2)
    return min(1.0, num_metrics * (each**2 if confirmed else each))
