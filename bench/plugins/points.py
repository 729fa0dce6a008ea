"""Operating points as a method gives them, judged when it gives them.

Every point is trained for once and measured at length: a value that no record can hold must be
found before, and named by its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.types import Point
from bench.values import FINITE, as_scalar, as_text


def checked_points(points: Any, owner: str) -> list[Point]:
    """`points` with numbers and texts of Python; `owner` names them in errors: "MoE.points()".

    Raises TypeError unless they are a list of mappings from names to text and numbers, ValueError
    for a number that is not finite, for two equal points, and for points with other keys than the
    first, which is the default.
    """
    if not isinstance(points, list | tuple):
        raise TypeError(f"{owner} is {points!r}: a list of points is needed, the default first")
    found = [_point(point, f"{owner}[{number}]") for number, point in enumerate(points)]
    for number, point in enumerate(found):
        if point.keys() != found[0].keys():
            raise ValueError(
                f"{owner}[{number}] has the keys {sorted(point)}, the default {sorted(found[0])}: "
                "every point sets the same"
            )
        # 1 and 1.0 are one point: a setting is found by its value again.
        if point in found[:number]:
            raise ValueError(f"{owner}[{number}] is {dict(point)}, which is there already")
    return found


def _point(point: Any, where: str) -> Point:
    if not isinstance(point, Mapping):
        raise TypeError(f'{where} is {point!r}: a point is a dict, such as {{"threshold": 0.9}}')
    return {
        as_text(f"a key of {where}", key): _value(value, f"{where}[{key!r}]")
        for key, value in point.items()
    }


def _value(value: Any, where: str) -> float | int | str:
    plain: Any = as_scalar(value)
    # A bool would be an int, and be shown as 0 or 1.
    if isinstance(plain, bool) or not isinstance(plain, int | float | str):
        raise TypeError(f"{where} is {value!r}: a number or text is needed")
    if problem := FINITE.problem(plain):
        raise ValueError(f"{where} is {plain}: {problem}")
    return plain
