"""Which annotations a plugin's settings may have: those that JSON brings back unchanged.

    setting_types(MoE)      {"num_experts": Annotated[int, Range(1)], ...}

What cannot be read or kept is named when a run is planned, not when the trial has trained.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from bench.values import type_hints

PLAIN = (bool, int, float, str)
USABLE = (
    "int, float, bool, str, pathlib.Path, an Enum, a dataclass, Any, or list, tuple, dict and "
    "| None of these"
)


@cache
def setting_types(cls: Any) -> dict[str, Any]:
    """The annotation of every setting, limits included; a field without init is no setting.

    Raises TypeError naming the first field whose annotation cannot be read, or whose type would
    not survive the way through JSON.
    """
    try:
        hints = type_hints(cls)
    except NameError as error:
        raise TypeError(_unreadable(cls, error)) from error
    except Exception as error:  # whatever evaluating a foreign annotation raises
        what = f"the annotations of {cls.__name__} cannot be read"
        raise TypeError(f"{what}: {type(error).__name__}: {error}") from error
    found = {each.name: hints[each.name] for each in dataclasses.fields(cls) if each.init}
    for name, hint in found.items():
        where = f"{cls.__name__}.{name}"
        try:
            _check_annotation(hint, where)
        except RecursionError:
            why = "a dataclass that holds itself has no end of settings"
            raise TypeError(f"{where}: {why}") from None
    return found


def _unreadable(cls: type, error: NameError) -> str:
    """Which annotation holds the unknown name. Base classes' annotations count as well."""
    written = {
        f"{base.__name__}.{name}": str(text)
        for base in reversed(cls.__mro__)
        for name, text in vars(base).get("__annotations__", {}).items()
    }
    holds = re.compile(rf"\b{re.escape(error.name or '')}\b")
    where = next((name for name, text in written.items() if holds.search(text)), cls.__name__)
    return (
        f"{where}: {error.name!r} in its annotation {written.get(where, '')!r} is unknown at run "
        "time; import it outside `if TYPE_CHECKING`"
    )


def _check_annotation(hint: Any, where: str, *, element: bool = False) -> None:
    """Raise TypeError unless values of `hint` pass through OmegaConf and JSON unchanged."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        _check_annotation(inner[0], where, element=element)
    elif kind in (Union, UnionType):
        for option in inner:
            _check_annotation(option, where, element=element)
    elif kind in (list, tuple) or hint in (list, tuple):
        for option in inner:
            if option is not Ellipsis:
                _check_annotation(option, where, element=True)
    elif kind is dict or hint is dict:
        if inner and not _is_key(inner[0]):
            raise TypeError(f"{where}: a dict's keys are str, int, float, bool or an Enum")
        _check_annotation(inner[1] if inner else Any, where, element=True)
    elif dataclasses.is_dataclass(hint):
        _check_nested(cast(type, hint), where, element=element)
    elif not (hint in (Any, NoneType, Path, *PLAIN) or is_enum(hint)):
        raise TypeError(f"{where}: {type_name(hint)} is not a type of settings; use {USABLE}")


def _check_nested(cls: type, where: str, *, element: bool) -> None:
    setting_types(cls)
    hidden = [each.name for each in dataclasses.fields(cls) if not each.init]
    if hidden and element:
        # OmegaConf makes every element with all fields, those that are no settings included.
        raise TypeError(
            f"{where}: {cls.__name__}.{hidden[0]} is a field(init=False), which elements of lists, "
            "tuples and dicts cannot have"
        )


def is_enum(hint: Any) -> bool:
    """Whether an annotation is an enumeration."""
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _is_key(hint: Any) -> bool:
    return (bare := without_limits(hint)) is Any or bare in PLAIN or is_enum(bare)


def without_limits(hint: Any) -> Any:
    """`int` of `Annotated[int, Range(1)]`."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def type_name(hint: Any) -> str:
    """An annotation as one writes it."""
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
