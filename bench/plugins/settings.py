"""A plugin's settings: from JSON to the declared types.

    defaults(MoE)                         {"num_experts": 8, ...} as trial.json holds them
    construct(MoE, {"num_experts": 4})    an instance, every value of its declared type and range

JSON has no tuples, paths, enumerations or keys that are numbers: the annotation names them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from bench.plugins.annotations import is_enum, setting_types, type_name, without_limits
from bench.plugins.choices import unknown
from bench.values import as_number, check_limits

# JSON has text for keys; what is declared is restored from it.
KEYS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
}


def construct(cls: type, settings: Mapping[str, Any]) -> Any:
    """A plugin from its settings as JSON holds them: dataclasses from dicts, members from names.

    Raises TypeError for settings that the class does not have and values of another type than
    declared; ValueError for an enumeration's missing member and a value outside its range.
    """
    return _construct(cls, settings, "")


def defaults(cls: type) -> dict[str, Any]:
    """A dataclass's defaults as JSON holds them; settings without a default are left out."""
    return _through_json(_default_values(cls))


def as_json(settings: Any) -> dict[str, Any]:
    """The settings of an instance as trial.json would hold them."""
    given = [each.name for each in dataclasses.fields(settings) if each.init]
    return _through_json({name: getattr(settings, name) for name in given})


def _construct(cls: type, settings: Mapping[str, Any], prefix: str) -> Any:
    hints = setting_types(cls)
    if not isinstance(settings, Mapping):  # of a file that is not ours
        raise TypeError(f"the settings of {cls.__name__} are {settings!r}: a mapping is needed")
    for name in sorted(settings.keys() - hints.keys()):
        raise TypeError(unknown("setting", prefix + name, [prefix + each for each in hints]))
    made = {name: _typed(hints[name], prefix + name, value) for name, value in settings.items()}
    # Before the class is called: its own code may divide by what is out of range. Defaults are
    # checked too, because a trial's JSON holds them like everything else.
    for name, value in {**_default_values(cls), **made}.items():
        check_limits(hints[name], prefix + name, value)
    try:
        return cls(**made)
    except ValueError as error:  # of the class's own checks
        if not prefix:
            raise
        begins_with_key = re.split(r"\W", str(error))[0] in hints
        where = prefix if begins_with_key else f"{prefix[:-1]}: "
        raise ValueError(f"{where}{error}") from error


def _default_values(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in dataclasses.fields(cls):
        if each.init and each.default is not dataclasses.MISSING:
            found[each.name] = each.default
        elif each.init and each.default_factory is not dataclasses.MISSING:
            found[each.name] = each.default_factory()
    return found


def _typed(hint: Any, name: str, value: Any) -> Any:
    """`value` as the type `hint` has it, inside lists, dicts and options too."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _typed(inner[0], name, value)
    if hint is Any or (hint is NoneType and value is None):
        return value
    if kind in (Union, UnionType):
        return _option(inner, name, value)
    if (kind is list or hint is list) and isinstance(value, list | tuple):
        return [_typed(inner[0] if inner else Any, name, each) for each in value]
    if (kind is tuple or hint is tuple) and isinstance(value, list | tuple):
        return _typed_tuple(inner, name, value)
    if (kind is dict or hint is dict) and isinstance(value, Mapping):
        of_keys, of_values = inner or (Any, Any)
        return {
            _key(of_keys, name, key): _typed(of_values, f"{name}[{key!r}]", each)
            for key, each in value.items()
        }
    return _single(hint, name, value)


def _single(hint: Any, name: str, value: Any) -> Any:
    """`value` as a plain type, a path, an enumeration's member or a dataclass."""
    if is_enum(hint) and isinstance(value, str) and not isinstance(value, hint):
        if value not in hint.__members__:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(hint.__members__)}")
        return hint[value]
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _construct(cast(type, hint), value, f"{name}.")
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return as_number(name, value)
    # For Python True is the integer 1; a setting that was declared as a number is not a switch.
    mistaken = isinstance(value, bool) and hint is not bool
    if isinstance(hint, type) and isinstance(value, hint) and not mistaken:
        return value
    raise TypeError(f"{name}={value!r}: declared as {type_name(hint)}")


def _typed_tuple(inner: tuple[Any, ...], name: str, value: Any) -> tuple[Any, ...]:
    if not inner or inner[-1] is Ellipsis:  # tuple, tuple[int, ...]: any number of elements
        return tuple(_typed(inner[0] if inner else Any, name, each) for each in value)
    if len(inner) != len(value):
        raise TypeError(f"{name}={list(value)}: declared with {len(inner)} elements")
    return tuple(_typed(each, name, part) for each, part in zip(inner, value, strict=True))


def _option(options: tuple[Any, ...], name: str, value: Any) -> Any:
    """`value` as the first option that takes it, one of exactly its type before the others."""
    # 3 for `float | int` must stay the integer 3, and "3" for `int | str` the text.
    ordered = sorted(options, key=lambda option: option is not type(value))
    problems = []
    for option in ordered:
        try:
            return _typed(option, name, value)
        except (TypeError, ValueError) as error:
            problems += [] if option is NoneType else [error]
    raise problems[0]


def _key(hint: Any, name: str, key: Any) -> Any:
    """A dict's key as declared: JSON holds numbers, and members by name, as text."""
    bare = without_limits(hint)
    if bare is Any or not isinstance(key, str):
        return key
    try:
        return _single(bare, name, key) if is_enum(bare) else KEYS[bare](key)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name} has the key {key!r}: declared as {bare.__name__}") from error


def _through_json(values: Mapping[str, Any]) -> dict[str, Any]:
    # `default=str` for paths; annotations that JSON cannot hold were refused before.
    found: dict[str, Any] = json.loads(json.dumps(_plain(values), default=str))
    return found


def _plain(value: Any) -> Any:
    """Dataclasses as dicts and members of enumerations by name, wherever they are."""
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = [each.name for each in dataclasses.fields(value) if each.init]
        return {name: _plain(getattr(value, name)) for name in given}
    if isinstance(value, Mapping):
        keys = ((key.name if isinstance(key, enum.Enum) else key) for key in value)
        return {key: _plain(each) for key, each in zip(keys, value.values(), strict=True)}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
