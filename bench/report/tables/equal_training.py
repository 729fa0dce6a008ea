"""Tables of equal training FLOPs: the best backbone of each method, one line below each of them.

At equal FLOPs a smaller model takes more steps, so that one size for all methods favours whichever
it suits. Tables that differ in settings of the backbone alone and share train.flops are one
comparison; each method enters it with its best size.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.records.catalogue import QUALITY
from bench.report.tables.grouping import TableKey
from bench.report.tables.numbers import number
from bench.report.tables.table import Row, Table

BUDGET, SIZE = "train.flops", "backbone."
CHANCE = "the best of several sizes is partly chance, all the more the more sizes there are"


@dataclass(frozen=True)
class Best:
    """A method at the size of its highest quality."""

    method: str
    quality: float
    size: str  # "dim=64"
    num_sizes: int


def with_best_sizes(made: Sequence[tuple[TableKey, Table]]) -> list[Table]:
    """The same tables; those of equal training FLOPs note the best size of each method."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (key, _) in enumerate(made):
        if (comparison := _comparison(key)) is not None:
            groups[comparison].append(place)
    found = [table for _, table in made]
    for places in groups.values():
        if len(places) > 1:
            note = _note([made[place] for place in places])
            for place in places if note else ():
                found[place] = replace(found[place], notes=[*found[place].notes, note])
    return found


def _comparison(key: TableKey) -> str | None:
    """What tables have in common that differ in sizes alone; None without a budget of FLOPs."""
    settings = json.loads(key.conditions)
    if settings.get(BUDGET) is None:
        return None
    same = {name: value for name, value in settings.items() if not name.startswith(SIZE)}
    return json.dumps([*key[:-1], same], sort_keys=True)


def _note(group: Sequence[tuple[TableKey, Table]]) -> str:
    """The line below every table of the group; "" where nothing was scored."""
    settings = [json.loads(key.conditions) for key, _ in group]
    sizes = [_size(each, settings) for each in settings]
    label = next((table.quality for _, table in group if table.quality is not None), None)
    if label is None:
        return ""
    scored = [
        (row, size)
        for (_, table), size in zip(group, sizes, strict=True)
        for row in table.rows
        # One row of each training, at the operating point chosen on calibration data.
        if not row.point and row.value(QUALITY.key) is not None
    ]
    sign = -1.0 if label.direction == "lower" else 1.0
    best = sorted(_best(scored, sign), key=lambda each: -sign * each.quality)
    unit = next((row.cells[QUALITY.key].unit for row, _ in scored), "")
    listed = "; ".join(
        f"{each.method} {number(each.quality)} ({each.size}, of {each.num_sizes})" for each in best
    )
    budget = f"{settings[0][BUDGET]:.3g}"
    return f"equal training ({BUDGET}={budget}), best size of each by {unit}: {listed}; {CHANCE}"


def _size(own: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> str:
    """The settings of the backbone in which the tables differ: `dim=64`."""
    names = sorted(name for name in own if name.startswith(SIZE))
    differ = [n for n in names if len({json.dumps(each.get(n)) for each in every}) > 1]
    return ", ".join(f"{name.removeprefix(SIZE)}={own[name]}" for name in differ)


def _best(scored: Iterable[tuple[Row, str]], sign: float) -> list[Best]:
    by_method: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for row, size in scored:
        by_method[row.method_name].append((row.value(QUALITY.key) or 0.0, size))
    found = []
    for method, tried in by_method.items():
        quality, size = max(tried, key=lambda each: sign * each[0])
        found.append(Best(method, quality, size, len(tried)))
    return found
