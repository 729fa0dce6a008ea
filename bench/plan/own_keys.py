"""Settings in a sweep over several plugins: a key goes to those that have it.

    method=moe,dense method.num_experts=4,8      two trials of moe, one of dense
    method=moe,topk_ffn method.moe.top_k=2       of moe alone, whatever the others have

The same holds for tasks and backbones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from bench.plan.overrides import Axis
from bench.plugins import GROUPS

Keys = Callable[[str, str], Sequence[str]]  # (kind, choice) -> the names of its settings


def axes_of_choice(
    values: Sequence[Axis], groups: Sequence[Axis], names: Mapping[str, str], keys: Keys
) -> list[Axis]:
    """The axes of plain values that apply to one combination, whose choices are `names` by kind.

    `groups` are the axes of choices. A key that no choice of its kind has stays as it is: setting
    it says what is wrong.
    """
    found = []
    for axis in values:
        kind, _, key = axis.key.partition(".")
        if kind not in GROUPS or not key:
            found.append(axis)
            continue
        swept = [_name(v) for each in groups if each.key == kind for v in each.values]
        applies = _axis_of(axis, kind, key, names[kind], swept or [names[kind]], keys)
        found += [] if applies is None else [applies]
    return found


def without_absent(axes: Mapping[str, Axis], given: Mapping[str, Axis]) -> dict[str, Axis]:
    """An experiment's `axes` without settings of choices that `given`, the command line, takes out.

    method=tome beside an experiment that sweeps method=tome,evit: `method.evit.keep_rate` goes.
    """
    absent = set()
    for kind in GROUPS:
        if kind in axes and kind in given:
            left, named = ({_name(v) for v in each[kind].values} for each in (given, axes))
            absent |= {f"{kind}.{name}" for name in named - left}
    return {key: axis for key, axis in axes.items() if ".".join(key.split(".")[:2]) not in absent}


def _name(override: str) -> str:
    """ "tome" of "method=tome"."""
    return str(override).partition("=")[2]


def _axis_of(
    axis: Axis, kind: str, key: str, name: str, swept: Sequence[str], keys: Keys
) -> Axis | None:
    """The axis as the choice `name` takes it; None where it is another one's."""
    first, _, rest = key.partition(".")
    if first in keys(kind, name):
        return axis
    if rest and first in swept:  # addressed by the choice's own name
        return dataclasses.replace(axis, key=f"{kind}.{rest}") if first == name else None
    return None if any(first in keys(kind, other) for other in swept) else axis
