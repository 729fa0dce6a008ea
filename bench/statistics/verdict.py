"""What speed-up and quality together mean: the one function for it.

    judge(speedup, loss, tolerance) -> Verdict

    PAYS                faster, and quality is kept
    FASTER_BUT_WORSE    faster, and quality is lost
    BETTER_BUT_SLOWER   slower, and quality is better
    NO_GAIN             not faster, and not better
    CANNOT_TELL         the measurement does not decide, or something is missing

Quality is kept where the loss is below the tolerance with 95 % confidence, lost where it is above
it with 95 % confidence. Not significant is not equal: between the two nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.statistics.intervals import Interval

MARGIN = 1.02  # a speed-up whose interval ends below this is no gain worth the trouble


class Verdict(StrEnum):
    """The five answers."""

    PAYS = "pays"
    FASTER_BUT_WORSE = "faster but worse"
    BETTER_BUT_SLOWER = "better but slower"
    NO_GAIN = "no gain"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Loss:
    """How much quality a method loses against dense, positive is worse, in the task's own unit.

    `low` and `high` are one-sided 95 % bounds each.
    """

    value: float
    low: float
    high: float


def judge(speedup: Interval | None, loss: Loss | None, tolerance: float) -> Verdict:
    """The verdict on one row. `speedup` is dense time / method time with its interval.

    Raises ValueError for a negative tolerance, and for NaN.
    """
    if not tolerance >= 0:
        raise ValueError(f"a tolerance is a loss that is accepted, 0 or more, not {tolerance}")
    if speedup is None or speedup.low is None or speedup.high is None or loss is None:
        return Verdict.CANNOT_TELL
    kept, lost = loss.high <= tolerance, loss.low > tolerance
    if speedup.low > 1:
        if kept:
            return Verdict.PAYS
        return Verdict.FASTER_BUT_WORSE if lost else Verdict.CANNOT_TELL
    if speedup.high < 1 and loss.high < 0:
        return Verdict.BETTER_BUT_SLOWER
    if speedup.high < MARGIN and (loss.high >= 0):
        return Verdict.NO_GAIN
    return Verdict.CANNOT_TELL
