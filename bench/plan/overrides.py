"""Hydra's override grammar, read as the axes of a matrix.

    method=moe,dense   a choice of a group: part of the composition
    seed=0,1           a plain value: set on the composed result
    seed=range(3)      the same; so are choice(...) and glob(...)
    +key=v  ++key=v    left to Hydra: part of the composition

An experiment's hydra.sweeper.params come through the same door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, RangeSweep, Sweep
from hydra.errors import HydraException

from bench.plan.explain import PlanError
from bench.plugins import GROUPS, unknown

COMMAND_LINE = "command line"
MAX_CHARACTERS, MAX_BRACKETS = 20_000, 200  # of one override
MAX_VALUES = 10_000  # of one setting: a range would be written out until memory is full
# Groups whose values are names of files or plugins, and cost a composition each.
CHOICE_GROUPS = ("experiment", *GROUPS, "gpu", "measure", "workload", "routing")
Choices = Callable[[str], list[str]]  # the choices of a group


@dataclass(frozen=True)
class Axis:
    """One key and what it takes: whole overrides where Hydra composes them, values elsewhere."""

    key: str
    values: Sequence[Any]
    source: str  # where it was written: the command line or a file
    composed: bool


def read(overrides: Iterable[str], source: str, choices: Choices) -> dict[str, Axis]:
    """The axes that override strings describe, in their order; a key's last one wins.

    `choices(group)` lists a group's choices. Raises PlanError.
    """
    # A dict keeps the place of the first and the value of the last, as Hydra does.
    axes = (_axis(_parsed(text, source), source, choices) for text in overrides)
    return {axis.key: axis for axis in axes}


def _parsed(text: str, source: str) -> Override:
    if len(text) > MAX_CHARACTERS:
        raise PlanError(f"{source}: {text[:40]!r}...: {len(text):,} characters are no setting")
    if sum(map(text.count, "[{(")) > MAX_BRACKETS:  # the parser recurses
        raise PlanError(f"{source}: {text[:40]!r}...: more than {MAX_BRACKETS} brackets")
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError, RecursionError) as error:
        raise PlanError(
            f"{source}: cannot read {text!r} ({error}): write KEY=VALUE, and a value with special "
            "characters in quotes of its own"
        ) from error


def _axis(override: Override, source: str, choices: Choices) -> Axis:
    key = override.get_key_element()
    if override.is_delete():
        raise PlanError(f"{source}: {key}: nothing can be taken out; give another value")
    values = _values(override, source, choices)
    if key in CHOICE_GROUPS:
        known = choices(key)
        for value in values:
            if isinstance(value, list):  # Hydra would merge several choices into one
                raise PlanError(
                    f"{source}: {key}={value}: several are written a,b without brackets"
                )
            if str(value) not in known:
                raise PlanError(f"{source}: {unknown(key, str(value), known)}")
    # A prefix (+, ++) makes the whole key differ from its name.
    composed = key in CHOICE_GROUPS or key != override.key_or_group
    return Axis(key, [f"{key}={v}" for v in values] if composed else values, source, composed)


def _values(override: Override, source: str, choices: Choices) -> list[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep():  # interval(0, 1) is for optimisers
        raise PlanError(f"{source}: {override.input_line}: a matrix needs values, not an interval")
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(choices(override.key_or_group))
    assert isinstance(value, Sweep)
    try:
        # Counted before Hydra writes a range out, which may be endless, to shuffle or sort it.
        found = value.range() if isinstance(value, RangeSweep) else override.sweep_iterator()
        too_many = len(list(islice(found, MAX_VALUES + 1))) > MAX_VALUES
        values = [] if too_many else [_unquoted(each) for each in override.sweep_iterator()]
    except (HydraException, ValueError, ArithmeticError) as error:  # a step of 0, a bound of nan
        raise PlanError(f"{source}: {override.input_line}: no such range: {error}") from error
    if too_many:
        raise PlanError(f"{source}: {override.input_line}: more than {MAX_VALUES:,} values")
    return values


def _unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):  # outside a sweep Hydra removes the quotes itself
        return value.text
    if isinstance(value, list):
        return [_unquoted(each) for each in value]
    return value
