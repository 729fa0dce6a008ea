"""A plugin's settings: from JSON to the types that its dataclass declares."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints


def construct(cls: type, settings: Mapping[str, Any]) -> Any:
    """A plugin from its settings as JSON holds them: dataclasses from dicts, members from names.

    Raises TypeError for settings that the class does not have, ValueError for an enumeration's
    member that it does not have.
    """
    hints = get_type_hints(cls)
    made = {name: _typed(hints.get(name), name, value) for name, value in settings.items()}
    return cls(**made)


def _typed(hint: Any, name: str, value: Any) -> Any:
    """`value` as the type `hint` has it, inside lists, dicts and options too."""
    inner = get_args(hint)
    if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in hint.__members__:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(hint.__members__)}")
        return hint[value]
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        return construct(cast(type, hint), value)
    if get_origin(hint) in (Union, UnionType):
        one = [option for option in inner if option is not NoneType]
        return _typed(one[0], name, value) if len(one) == 1 and value is not None else value
    if get_origin(hint) is list and isinstance(value, list):
        return [_typed(inner[0], name, each) for each in value]
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {key: _typed(inner[1], name, each) for key, each in value.items()}
    return value
