"""Values from outside, checked where they are given: ranges, numbers and texts.

    num_experts: Annotated[int, Range(1)] = 8       the range of a setting
    check_fields(settings)                          raises ValueError: num_experts=0: must be ...
    as_number("Quality.value", np.float32(0.5))     0.5, a float of Python

Plugins import `Range` and `OneOf` from bench.types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be; others are refused when a run is planned.

        keep: Annotated[float, Range(gt=0, le=1)] = 0.5
        capacity_factor: Annotated[float | None, Range(gt=0)] = None
        widths: list[Annotated[float, Range(0, 1)]]

    `ge <= value <= le` and `gt < value < lt`; None: no limit on that side. NaN and infinity are
    never allowed, null where the annotation is optional. A condition on several settings stands
    in the dataclass's `__post_init__` and raises ValueError.
    """

    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None

    def problem(self, value: Any) -> str:
        """What `value` must be; "" for a value that is allowed, or not a number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""  # another option of a union, such as `Annotated[int, Range(1)] | str`
        limits = {  # each comparison is false for NaN
            "at least": (self.ge, self.ge is None or value >= self.ge),
            "above": (self.gt, self.gt is None or value > self.gt),
            "at most": (self.le, self.le is None or value <= self.le),
            "below": (self.lt, self.lt is None or value < self.lt),
        }
        finite = _is_finite(value)
        if finite and all(holds for _, holds in limits.values()):
            return ""
        words = [f"{word} {limit}" for word, (limit, _) in limits.items() if limit is not None]
        allowed = " and ".join(words)
        if finite:
            return f"must be {allowed}"
        return f"must be {allowed}, and finite" if allowed else "must be finite"


class OneOf:
    """The texts that a setting may be: `activation: Annotated[str, OneOf("gelu", "relu")]`.

    In place of `Literal`, which OmegaConf does not accept.
    """

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def problem(self, value: Any) -> str:
        """What `value` must be; "" for a choice."""
        if value in self.choices:
            return ""
        return f"choose one of {', '.join(map(repr, self.choices))}"


FINITE = Range()


def _is_finite(value: float) -> bool:
    """Whether `value` is finite as a float; an integer of 400 digits is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_fields(settings: Any) -> None:
    """Raise ValueError, naming the field, where a dataclass's value is outside its annotation."""
    cls: Any = type(settings)
    hints = type_hints(cls)
    for each in fields(settings):
        check_limits(hints[each.name], each.name, getattr(settings, each.name))


@cache
def type_hints(cls: Any) -> dict[str, Any]:
    """The annotations of a dataclass with their limits. Raises NameError for an unknown name."""
    return get_type_hints(cls, include_extras=True)


def check_limits(annotation: Any, name: str, value: Any) -> None:
    """Raise ValueError where `value` is outside a Range or OneOf of `annotation`.

    Limits inside lists, dicts and options count too. A limit is any object in `Annotated` with a
    method `problem(value) -> str`.
    """
    if value is None:  # whether null is possible is a question of the type, not of the range
        return
    kind, inner = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        for limit in annotation.__metadata__:
            problem = limit.problem(value) if hasattr(limit, "problem") else ""
            if problem:
                raise ValueError(f"{name}={value!r}: {problem}")
        check_limits(inner[0], name, value)
    elif kind in (Union, UnionType):
        # A text is outside no range of numbers, and a number none of several texts.
        for option in _options_of(value, inner):
            check_limits(option, name, value)
    elif not inner:
        return  # `list`, typing.List or tuple[()]: elements without a type have no limits
    elif kind is dict and isinstance(value, Mapping):
        for key, each in value.items():
            check_limits(inner[0], f"{name}'s key", key)
            check_limits(inner[1], f"{name}[{key!r}]", each)
    elif kind in (list, tuple) and isinstance(value, list | tuple):
        # tuple[int, ...] and list[int] have one annotation for all elements.
        each_has_own = kind is tuple and inner[-1] is not Ellipsis
        for number, each in enumerate(value):
            check_limits(inner[number] if each_has_own else inner[0], name, each)


def _options_of(value: Any, options: tuple[Any, ...]) -> list[Any]:
    """The options of a union that `value` is one of: "auto" is outside no range of numbers.

    A whole number is one of float's where the union has no int.
    """
    exact = [option for option in options if _class_of(option) is type(value)]
    if exact or isinstance(value, bool):
        return exact
    return [each for each in options if isinstance(value, _class_of(each))] or [
        each for each in options if _class_of(each) is float and isinstance(value, int)
    ]


def _class_of(annotation: Any) -> type:
    """The class of an annotation's values: `list` of `Annotated[list[int], ...]`."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    found = get_origin(bare) or bare
    # A union inside Annotated, or Any, may hold anything.
    return found if isinstance(found, type) and found is not UnionType else object


def encodable(text: str) -> str:
    """`text` without lone surrogates, which no file in UTF-8 can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_scalar(value: Any) -> Any:
    """A number or text of numpy or torch as Python's own; everything else as it is."""
    # Duck-typed, to import neither: scalars, and arrays and tensors without dimensions, have both.
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    return encodable(value) if isinstance(value, str) else value


def as_text(name: str, value: Any) -> str:
    """`value` as encodable text. Raises TypeError for what is not text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, which is not text")
    return encodable(value)


def as_number(name: str, value: Any, allowed: Range | None = None) -> float:
    """`value` as a float. Raises TypeError unless it is a number, ValueError if not `allowed`."""
    number = as_scalar(value)
    # A bool is an int for Python; as a score or a size it is a mistake.
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} is {value!r}, which is not a number")
    if allowed is not None and (problem := allowed.problem(number)):
        raise ValueError(f"{name} is {number}: {problem}")
    try:
        return float(number)
    except OverflowError as error:
        raise ValueError(f"{name} is {number}, which no float can hold") from error


def as_whole(name: str, value: Any, allowed: Range | None = None) -> int:
    """`value` as an int. Raises TypeError and ValueError like `as_number`, also for 1.5."""
    number = as_number(name, value, allowed)  # 3e2 and numpy's integers are whole as well
    if not number.is_integer():
        raise ValueError(f"{name} is {number}, which is not a whole number")
    return int(number)


def as_numbers(name: str, values: Any, allowed: Range | None = None) -> list[float]:
    """An array, a tensor or a sequence as floats; raises what `as_number` does."""
    # An array at once: one by one, the scores of 24,000 samples in a tensor take a second.
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple):
        raise TypeError(f"{name} is {values!r}, which is not a sequence")
    return [as_number(f"{name}[{row}]", value, allowed) for row, value in enumerate(listed)]


def as_named_numbers(name: str, values: Any, allowed: Range | None = None) -> dict[str, float]:
    """A mapping from names to numbers, as floats; raises what `as_number` does."""
    return {
        key: as_number(f"{name}[{key!r}]", value, allowed)
        for key, value in _by_name(name, values).items()
    }


def as_named_texts(name: str, values: Any) -> dict[str, str]:
    """A mapping from names to encodable texts. Raises TypeError for anything else."""
    return {
        key: as_text(f"{name}[{key!r}]", value) for key, value in _by_name(name, values).items()
    }


def _by_name(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} is {values!r}, which is not a mapping")
    return {as_text(f"a key of {name}", key): value for key, value in values.items()}
