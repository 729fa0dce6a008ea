"""What speed-up and quality together mean: the one function for it.

    judge(speedup, loss, tolerance) -> Verdict
    tolerance_of("accuracy %", 92.15)          the loss that counts as kept: 1 point
    loss_of(interval, "higher")                a loss from quality minus dense's quality

    PAYS                faster, and quality is kept
    FASTER_BUT_WORSE    faster, and quality is lost
    BETTER_BUT_SLOWER   slower, and quality is better
    NO_GAIN             not faster, and not better
    CANNOT_TELL         the measurement does not decide, or something is missing

Quality is kept where the loss is below the tolerance with 95 % confidence, lost where it is above
it with 95 % confidence. Not significant is not equal: between the two nothing is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bench.statistics.intervals import Interval

# By the unit of quality: what counts as kept where measure.tolerance is null.
POINTS_TOLERANCE, BITS_TOLERANCE, SHARE_TOLERANCE = 1.0, 0.02, 0.01
ONE_SIDED = 1.6449 / 1.9600  # of a two-sided 95 % interval; wider than needed for few values
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


def tolerance_of(unit: str, dense: float, configured: float | None = None) -> float:
    """The loss that counts as kept, in `unit`: `configured`, or by the unit.

    1 point of a percentage, 0.02 bits, 1 % of the value of `dense` in any other unit.
    """
    if configured is not None:
        return configured
    if "%" in unit:
        return POINTS_TOLERANCE
    if unit.startswith("bit"):
        return BITS_TOLERANCE
    return SHARE_TOLERANCE * abs(dense) if math.isfinite(dense) else 0.0


def loss_of(difference: Interval, direction: str) -> Loss | None:
    """The loss that a difference in quality to dense is; None without an interval.

    `difference`: method minus dense with its two-sided 95 % interval. `direction`: which way the
    task's quality is better, "higher" or "lower".
    """
    value, low, high = difference.value, difference.low, difference.high
    if value is None or low is None or high is None:
        return None
    sign = -1 if direction == "higher" else 1
    bounds = sorted(sign * (value + ONE_SIDED * (bound - value)) for bound in (low, high))
    return Loss(sign * value, *bounds)


def why_unclear(speedup: Interval | None, loss: Loss | None, tolerance: float, unit: str) -> str:
    """What stands in the way of a verdict, in one phrase; "" where there is one."""
    if judge(speedup, loss, tolerance) is not Verdict.CANNOT_TELL:
        return ""
    if speedup is None or speedup.low is None:
        return "no speed-up with an interval"
    if loss is None:
        return "no difference in quality to dense with an interval"
    if speedup.low <= 1:
        return "the speed-up's interval contains 1"
    resolved = (loss.high - loss.low) / 2
    return (
        f"the loss of quality is known to \u00b1{resolved:.2g} {unit}, "
        f"the tolerance is {tolerance:g}"
    )


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
