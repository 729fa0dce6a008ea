"""A claim, its answer, and the two rules that answer it from an interval.

claim_at_equal_quality   a ratio to dense, by the one verdict function
claim_of_difference      a difference in quality, by its interval and the tolerance
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from bench.report.tables.cells import Cell
from bench.report.tables.numbers import difference, number
from bench.statistics.intervals import Interval
from bench.statistics.verdict import Loss, Verdict, judge, loss_of, why_unclear

# For the one verdict function, where only one of its two sides is known.
KEPT = Loss(0.0, 0.0, 0.0)
FASTER = Interval(2.0, 2.0, 2.0, 1, "none")
SUFFIXES = {"x": "x", "%": " %", "graph breaks": " breaks"}


class Answer(StrEnum):
    """The four answers."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Claim:
    """A question with its rule; of a gain "yes" is good news, of a cost it is bad."""

    key: str
    title: str  # the head of a column
    rule: str  # what "yes" means
    kind: Literal["gain", "cost"] = "gain"


@dataclass(frozen=True)
class Outcome:
    """The answer with its number in `unit`; `note` is the reason where there is no clear one."""

    answer: Answer
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""
    baseline: str = ""  # the dense model of a comparison that is not with dense itself
    is_difference: bool = False  # of quality, in the task's unit; positive is better

    @property
    def number(self) -> str:
        """`1.83x`, `41.3 %`, `+0.23`; "" without a number. Units of quality are left out."""
        if self.value is None:
            return ""
        if not self.is_difference:
            return number(self.value) + SUFFIXES[self.unit]
        # A difference has the decimals of its interval, and a sign also without one.
        text = difference(Cell(self.value, self.unit, self.low, self.high)).main
        return text if text[0] in "+-" or not self.value else f"+{text}"

    @property
    def text(self) -> str:
        """The number with its unit."""
        return f"{self.number} {self.unit}".strip() if self.is_difference else self.number

    def with_note(self, *, before: str = "", after: str = "") -> Outcome:
        """The same with more said about it."""
        return replace(self, note="; ".join(filter(None, (before, self.note, after))))

    @property
    def interval(self) -> str:
        """`[1.77, 1.89]`, `exact` for counts, "" without one."""
        if self.low is None or self.high is None:
            return ""
        if self.low == self.high:
            return "exact"
        if not self.is_difference:
            return f"[{number(self.low)}, {number(self.high)}]"
        low, high = (replace(self, value=bound).number for bound in (self.low, self.high))
        return f"[{low}, {high}]"


def not_measured(reason: str) -> Outcome:
    """No number, and why."""
    return Outcome(Answer.NOT_MEASURED, note=reason)


def exactly(value: float) -> Interval:
    """A count: it has no error."""
    return Interval(value, value, value, 1, "none")


@dataclass(frozen=True)
class Quality:
    """What is known of a loss of quality: None without an interval; the loss that is accepted."""

    loss: Loss | None
    tolerance: float
    unit: str


def claim_at_equal_quality(
    ratio: Interval, quality: Quality, *, least: float = 1.0, noise: float | None = None
) -> Outcome:
    """Whether a ratio to dense (above 1 is better) exceeds `least` while quality is kept.

    `noise`: by how much identical models differed; a ratio that close to `least` is undecided. The
    answer is no, too, where one side refuses it whatever the other one is.
    """
    shown = Outcome(Answer.UNDECIDED, ratio.value, ratio.low, ratio.high, "x")
    scaled: Interval | None = ratio.map(lambda value: value / least)
    is_noise = noise is not None and ratio.value is not None
    if is_noise and abs((ratio.value or 0.0) / least - 1) <= (noise or 0.0):
        shown = replace(shown, note=f"timing noise: identical models differed by {noise:.1%}")
        scaled = None
    verdict = judge(scaled, quality.loss, quality.tolerance)
    if verdict is Verdict.CANNOT_TELL:
        verdict = _one_side(scaled, quality)
    if verdict is Verdict.CANNOT_TELL:
        return shown if shown.note else replace(shown, note=_unclear(scaled, least, quality))
    answer = Answer.YES if verdict is Verdict.PAYS else Answer.NO
    return replace(shown, answer=answer, note=_refusal(verdict, quality))


def _one_side(scaled: Interval | None, quality: Quality) -> Verdict:
    """NO_GAIN or FASTER_BUT_WORSE where the other side cannot change it."""
    even_if_kept = judge(scaled, KEPT, quality.tolerance)
    if even_if_kept is Verdict.NO_GAIN:
        return even_if_kept
    even_if_faster = judge(FASTER, quality.loss, quality.tolerance)
    worse = even_if_faster is Verdict.FASTER_BUT_WORSE
    return even_if_faster if worse else Verdict.CANNOT_TELL


def _unclear(scaled: Interval | None, least: float, quality: Quality) -> str:
    if scaled is None or scaled.low is None:
        return (scaled.reason if scaled is not None else None) or "no interval"
    if scaled.low <= 1:
        return f"the interval contains {least:g}"
    return why_unclear(scaled, quality.loss, quality.tolerance, quality.unit)


def _refusal(verdict: Verdict, quality: Quality) -> str:
    if verdict is Verdict.FASTER_BUT_WORSE and quality.loss is not None:
        lost = number(quality.loss.value)
        return f"quality is lost: {lost} {quality.unit}, tolerance {number(quality.tolerance)}"
    return "at better quality" if verdict is Verdict.BETTER_BUT_SLOWER else ""


def claim_of_difference(
    found: Interval, direction: str, tolerance: float, unit: str, note: str = ""
) -> Outcome:
    """Whether a first quality is better than a second one, by `found`, first minus second.

    Yes where it is better with 95 % confidence; no where anything above the tolerance is excluded
    with as much. The number is turned so that positive is better.
    """
    sign = 1.0 if direction == "higher" else -1.0
    bounds = [sign * each for each in (found.low, found.high) if each is not None]
    low, high = sorted(bounds) if len(bounds) == 2 else (None, None)
    value = None if found.value is None else sign * found.value
    shown = Outcome(Answer.UNDECIDED, value, low, high, unit, note, is_difference=True)
    loss = loss_of(found, direction)
    if loss is None:
        why = found.reason or "no interval"
        return replace(shown, note=f"{note}; {why}" if note else why)
    if loss.high < 0:
        return replace(shown, answer=Answer.YES)
    return replace(shown, answer=Answer.NO if -loss.low < tolerance else Answer.UNDECIDED)
