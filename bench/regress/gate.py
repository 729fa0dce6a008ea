"""The statistical gate: from paired rounds to regressed, improved, equal or inconclusive.

A cost ratio is candidate / baseline: above 1 the candidate costs more. Its interval decides:

    regressed      the interval's low end lies above the margin (+2 % time, +3 % energy)
    improved       its high end lies below the mirrored margin
    equal          the whole interval lies inside +-5 %
    inconclusive   none of these: rounds are added up to 100, then it stays so

The first that holds counts: [1.025, 1.045] is regressed although it lies inside +-5 %.
Inconclusive is never green, and a suspected regression counts once a second, independent
measurement says the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from bench.statistics import LEVEL, Interval, mean_interval, ratio_interval

Judgement = Literal["regressed", "improved", "equal", "inconclusive"]
More = Callable[[int], Sequence[float]]  # measures n more rounds: their log cost ratios

MAX_ROUNDS = 100
EQUAL = 0.05  # half-width of what counts as equal


@dataclass(frozen=True)
class Margins:
    """Relative changes: beyond `change` it counts, within `equal` on both sides it does not."""

    change: float
    equal: float = EQUAL


TIME = Margins(0.02)
ENERGY = Margins(0.03)
QUALITY = Margins(0.02)


def judge(ratio: Interval, margins: Margins = TIME) -> Judgement:
    """What the interval of a cost ratio (candidate / baseline, 1 is no change) says."""
    if ratio.low is None or ratio.high is None:
        return "inconclusive"
    if ratio.low > 1 + margins.change:
        return "regressed"
    if ratio.high < 1 / (1 + margins.change):
        return "improved"
    if ratio.low >= 1 - margins.equal and ratio.high <= 1 + margins.equal:
        return "equal"
    return "inconclusive"


@dataclass(frozen=True)
class Judged:
    """A cost ratio with its interval, what it says, and how many looks that took."""

    ratio: Interval
    judgement: Judgement
    num_looks: int


def looks(start: int, most: int = MAX_ROUNDS) -> Iterator[int]:
    """After how many rounds to look: `start`, twice that and so on, the last time at `most`."""
    number = min(start, most)
    while number < most:
        yield number
        number *= 2
    yield most


def mean_ratio(log_ratios: Sequence[float]) -> Interval:
    """The geometric mean of a few long windows' ratios, with Student's t interval."""
    return mean_interval(log_ratios).map(math.exp)


def decide(
    more: More,
    start: int,
    margins: Margins = TIME,
    most: int = MAX_ROUNDS,
    interval: Callable[[Sequence[float]], Interval] = ratio_interval,
) -> Judged:
    """Measure `start` rounds, and more while they are inconclusive, `most` at the end.

    `more(n)` measures n further rounds and returns their log cost ratios; `interval` turns all of
    them into a ratio: the median for times, `mean_ratio` for energy windows, which are few.
    """
    rounds: list[float] = []
    for number, wanted in enumerate(looks(start, most), start=1):
        rounds += more(wanted - len(rounds))
        ratio = interval(rounds)
        judged = Judged(ratio, judge(ratio, margins), number)
        if judged.judgement != "inconclusive":
            break
    return judged


class Says(Protocol):
    """Whatever carries a judgement."""

    @property
    def judgement(self) -> Judgement: ...


Said = TypeVar("Said", bound=Says)


def confirm(first: Said, again: Callable[[], Said]) -> tuple[Said, Said | None]:
    """What counts after one rerun, and the rerun (None where none was needed).

    A change, for the worse or the better, counts if the rerun shows it too; if it does not, what
    the rerun says counts: two processes of one program can differ by several per cent.
    """
    if first.judgement not in ("regressed", "improved"):
        return first, None
    rerun = again()
    return (first if rerun.judgement == first.judgement else rerun), rerun


def family_wise_error(num_metrics: int, num_looks: int, *, confirmed: bool) -> float:
    """Bound on the chance of any false regression in a family of metrics, `num_looks` at most each.

    Where no true change exceeds its margin, one look at a 95 % interval is wrong on the upper side
    with 2.5 %; looks and metrics add up (Bonferroni), and an independent rerun has to repeat the
    error. For an unchanged program the chance is far smaller: `condbench nightly --simulate`.
    """
    each = min(1.0, num_looks * (1 - LEVEL) / 2)
    return min(1.0, num_metrics * (each**2 if confirmed else each))
