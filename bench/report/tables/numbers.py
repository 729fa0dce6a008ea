"""Numbers as text: significant digits, intervals, and the verdict against dense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bench.report.tables.cells import Cell

Verdict = Literal["", "tie", "better", "worse"]


@dataclass(frozen=True)
class Text:
    """One cell as text: the number, its interval, its verdict against dense, its footnotes."""

    main: str
    spread: str = ""  # half of the interval's width after a +-
    bounds: tuple[str, str] | None = None  # of a ratio, whose interval need not be symmetric
    verdict: Verdict = ""
    doubt: str = ""  # a reservation about the number; becomes a footnote
    marks: str = ""  # footnote letters

    @property
    def interval(self) -> str:
        """The interval where there is room for both bounds."""
        return f"[{self.bounds[0]}, {self.bounds[1]}]" if self.bounds else self.spread


def plain(cell: Cell, *, digits: int = 3, spread: bool = False) -> Text:
    """A measured number, with half of its interval's width if `spread`."""
    main = number(cell.value or 0.0, digits)
    return Text(main, _spread(cell, main) if spread else "")


def ratio(cell: Cell) -> Text:
    """A ratio to dense with its verdict; without an interval there is none."""
    main = number(cell.value or 0.0)
    if cell.low is None or cell.high is None:
        return Text(main, doubt="no interval, so no verdict")
    bounds = (number(cell.low), number(cell.high))
    return Text(main, _spread(cell, main), bounds, verdict(cell, 1.0))


def difference(cell: Cell) -> Text:
    """A signed paired difference to dense, with the decimals of its interval."""
    value = cell.value or 0.0
    if cell.low is None or cell.high is None:
        return Text(number(value))
    half = number((cell.high - cell.low) / 2, digits=2)
    decimals = len(half.partition(".")[2]) if "e" not in half else 0
    # No "better": in which direction a task counts is not known here.
    tie: Verdict = "tie" if verdict(cell, 0.0) == "tie" else ""
    return Text(f"{value:+.{decimals}f}", f"\u00b1{half}", verdict=tie)


def verdict(cell: Cell, even: float) -> Verdict:
    """`better` or `worse` only where the whole interval lies above or below `even`, else `tie`."""
    if cell.low is None or cell.high is None:
        return ""
    if cell.low <= even <= cell.high:
        return "tie"
    return "better" if cell.low > even else "worse"


def _spread(cell: Cell, main: str) -> str:
    """Half of the interval's width after a +-, with the decimals of `main`; "" without one."""
    if cell.low is None or cell.high is None:
        return ""
    half = (cell.high - cell.low) / 2
    decimals = len(main.partition(".")[2]) if "e" not in main else 0
    text = f"{half:.{decimals}f}"
    # A width below the last decimal keeps one digit instead of becoming 0.00.
    return "\u00b1" + (text if float(text) or not half else number(half, digits=1))


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent in everyday magnitudes.

    1.746 is "1.75", 99.96 is "100", 1234.5 is "1234", 0.00123 is "0.00123", 0 is "0".
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    scientific = f"{value:.{digits - 1}e}"
    magnitude = int(scientific.partition("e")[2])  # of the rounded value: 99.96 counts as 100
    if not -5 <= magnitude <= 9:
        return scientific
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"
