"""Which sizes are measured first and next, and what lies between measured ones.

Between two measured neighbours the logarithm of the speed-up is taken as linear in the logarithm
of the axis: time follows powers of width, tokens and batch size. Beyond the outermost ones nothing
is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from bench.report.maps.cells import Cell, Map, Size


@dataclass(frozen=True)
class Crossing:
    """Where the speed-up is 1, interpolated along one axis between two measured cells."""

    width: float
    tokens: float
    batch: float


def coarse(sizes: Collection[Size]) -> set[Size]:
    """Every second width and number of tokens, the outermost ones included."""
    widths = _every_second(sorted({size.width for size in sizes}))
    tokens = _every_second(sorted({size.tokens for size in sizes}))
    return {size for size in sizes if size.width in widths and size.tokens in tokens}


def _every_second(values: Sequence[int]) -> set[int]:
    return {*values[::2], *values[-1:]}


def to_refine(cells: Sequence[Cell], sizes: Collection[Size]) -> set[Size]:
    """Those of `sizes` without a cell that lie between measured ones on both sides of 1.

    For at least one batch size one of the nearest measured sizes around is faster than dense, and
    another is not.
    """
    measured = {cell.size for cell in cells}
    faster = {(cell.size, cell.batch): cell.speedup > 1 for cell in cells}
    batches = {cell.batch for cell in cells}
    found = set()
    for size in set(sizes) - measured:
        around = _around(size, measured)
        sides = ({faster[s, b] for s in around if (s, b) in faster} for b in batches)
        if any(len(side) > 1 for side in sides):
            found.add(size)
    return found


def _around(size: Size, measured: Collection[Size]) -> list[Size]:
    """The measured sizes among the nearest widths and numbers of tokens on either side."""
    widths = _nearest(size.width, {each.width for each in measured})
    tokens = _nearest(size.tokens, {each.tokens for each in measured})
    corners = (Size(*pair) for pair in product(widths, tokens))
    return [corner for corner in corners if corner in measured]


def _nearest(value: int, values: Collection[int]) -> set[int]:
    """The largest one that is not above, and the smallest that is not below."""
    below = max((each for each in values if each <= value), default=None)
    above = min((each for each in values if each >= value), default=None)
    return {each for each in (below, above) if each is not None}


def crossings(found: Map) -> list[Crossing]:
    """Every place between neighbours along an axis where the speed-up crosses 1."""
    by_place = {(c.size.width, c.size.tokens, c.batch): math.log(c.speedup) for c in found.cells}
    places = sorted({place for axis in range(3) for place in _crossed(by_place, axis)})
    return [Crossing(*place) for place in places]


def _crossed(
    by_place: Mapping[tuple[int, int, int], float], axis: int
) -> Iterator[tuple[float, ...]]:
    lines: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for place, log in by_place.items():
        others = place[:axis] + place[axis + 1 :]
        lines.setdefault(others, []).append((place[axis], log))
    for others, line in lines.items():
        for (a, log_a), (b, log_b) in pairwise(sorted(line)):
            if log_a * log_b < 0:
                at = math.exp(between(math.log(a), math.log(b), log_a / (log_a - log_b)))
                yield (*others[:axis], at, *others[axis:])


def between(start: float, end: float, part: float) -> float:
    """`part` of the way, 0 at `start` and 1 at `end`."""
    return start + (end - start) * part


def filled(
    found: Map, batch: int, widths: Sequence[int], tokens: Sequence[int]
) -> dict[Size, float]:
    """log(speed-up) on the grid: measured, and interpolated where both sides are measured.

    First along lines of measured sizes, then between what these gave.
    """
    logs = {size: math.log(cell.speedup) for size, cell in found.at(batch).items()}
    for _ in range(2):
        new = {}
        for size in (Size(*pair) for pair in product(widths, tokens)):
            if size not in logs:
                sides = [
                    *_inside(
                        size.width, {s.width: v for s, v in logs.items() if s.tokens == size.tokens}
                    ),
                    *_inside(
                        size.tokens, {s.tokens: v for s, v in logs.items() if s.width == size.width}
                    ),
                ]
                if sides:
                    new[size] = sum(sides) / len(sides)
        logs |= new
    return logs


def _inside(value: int, line: Mapping[int, float]) -> list[float]:
    """The interpolated value in a list; [] where one side has none."""
    below = max((each for each in line if each < value), default=None)
    above = min((each for each in line if each > value), default=None)
    if below is None or above is None:
        return []
    part = math.log(value / below) / math.log(above / below)
    return [between(line[below], line[above], part)]
