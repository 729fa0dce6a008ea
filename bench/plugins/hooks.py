"""A method resolved once: what it does (callables) and what it is (flags).

    method = resolve(plugin)
    method.hooks.loss            a callable, or None where the default is meant
    method.flags.batch_invariant

All code that works with a method reads these two; none probes the plugin itself. A control that
stands in front of another method names it `inner` and changes its model in `wrap(model, spec)`:
hooks and flags that the control does not define are those of the inner method.

What a method declares is checked here, once, before anything is built: hooks that cannot be called
as documented, flags of another type, operating points that no record can hold.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.plugins.points import checked_points
from bench.types import Point
from bench.values import Range, as_number, as_scalar, encodable


@dataclass(frozen=True)
class Hooks:
    """What a method does; None where it leaves the default. docs/reference/contract.md has all."""

    build: Callable[..., Any]  # (spec, backbone) -> model
    convert: Callable[..., Any] | None = None  # (dense, batches) -> model, instead of build
    loss: Callable[..., Any] | None = None  # (model, batch, criterion, progress) -> scalar
    after_step: Callable[..., None] | None = None  # (model, progress)
    param_groups: Callable[..., Any] | None = None  # (model, lr) -> list of dicts
    calibrate: Callable[..., None] | None = None  # (model, batches)
    points: Callable[[], list[Point]] | None = None  # the default point first
    set_point: Callable[..., None] | None = None  # (model, point)
    declared_flops: Callable[..., float] | None = None  # (model, observation) -> FLOPs
    training_flops: Callable[..., float] | None = None  # (model, forward, dense) -> FLOPs


@dataclass(frozen=True)
class Flags:
    """What a method is, each with its default."""

    train_share: float = 1.0  # of the recipe's steps; 0: training free
    batch_invariant: bool = True  # a sample's result does not depend on its batch
    open_is_dense: bool = False  # converted, with open gates, it answers as the dense model does
    reads_targets: bool = False  # a control that decides in hindsight
    compaction: str = ""  # what is computed together in a batch, one phrase


@dataclass(frozen=True)
class ResolvedMethod:
    """A method with its hooks and flags; `settings` is the plugin's own dataclass."""

    settings: Any
    hooks: Hooks
    flags: Flags
    suspects: tuple[str, ...] = field(default=())  # names that look like misspelt hooks


def _no_build(spec: Any, backbone: Any) -> Any:
    raise TypeError("the method starts from a dense model: it has convert() and no build()")


DEFAULT_HOOKS = Hooks(build=_no_build)  # of a model that is trained without a method: dense
HOOKS = tuple(each.name for each in dataclasses.fields(Hooks))
FLAGS = tuple(each.name for each in dataclasses.fields(Flags))
CONTROL = ("inner", "wrap")
# What each hook is called with, by position.
ARGUMENTS = {
    "build": "spec, backbone",
    "convert": "dense, batches",
    "loss": "model, batch, criterion, progress",
    "after_step": "model, progress",
    "param_groups": "model, lr",
    "calibrate": "model, batches",
    "points": "",
    "set_point": "model, point",
    "declared_flops": "model, observation",
    "training_flops": "model, forward, dense",
    "wrap": "model, spec",
}
SIMILAR = 0.8  # of difflib's ratio: `calibrte` and `batch_invarient`, not `capacity`


def resolve(method: Any) -> ResolvedMethod:
    """What `method`, an instance of a plugin's dataclass, does and is.

    A hook that is set to None counts as left out, also where the inner method has one. Raises
    TypeError for a hook that cannot be called with its documented arguments, for `set_point`
    without `points`, and for a flag of another type; ValueError for a flag out of range. `points`
    and `declared_flops` raise the same for what they return.
    """
    inner = _attribute(method, "inner", None)
    below = resolve(inner) if inner is not None else None  # controls of controls resolve too
    hooks = {name: _hook(method, name, below) for name in HOOKS}
    if below is not None and (wrap := _attribute(method, "wrap", None)) is not None:
        _check_callable(wrap, "wrap", f"{type(method).__name__}.wrap")
        for name in ("build", "convert"):  # of its own, it would never be called
            if _attribute(method, name, None) is not None:
                owner = type(method).__name__
                raise TypeError(f"{owner} has wrap() in place of build, and {name}() as well")
        hooks |= _wrapped(wrap, below.hooks)
    if (hooks["points"] is None) != (hooks["set_point"] is None):
        raise TypeError("points() and set_point(model, point) come together: one is missing")
    if hooks["build"] is None and hooks["convert"] is None:
        raise TypeError(f"{type(method).__name__} has neither build() nor convert()")
    hooks["build"] = hooks["build"] or _no_build
    return ResolvedMethod(method, Hooks(**hooks), _flags(method, below), _suspects(method))


def _attribute(method: Any, name: str, default: Any) -> Any:
    """An attribute, or `default` where there is none.

    Raises TypeError where there is one that cannot be read: to `getattr` a property with a
    misspelt name inside looks like a hook that is left out.
    """
    try:
        return getattr(method, name)
    except AttributeError as error:
        if inspect.getattr_static(method, name, error) is error:
            return default
        raise TypeError(f"{type(method).__name__}.{name} cannot be read: {error}") from error


def _hook(method: Any, name: str, below: ResolvedMethod | None) -> Any:
    missing = object()  # None is a value: it switches off a hook of the inner method
    found: Any = _attribute(method, name, missing)
    if found is missing:
        return None if below is None else getattr(below.hooks, name)
    if found is None:
        return None
    owner = f"{type(method).__name__}.{name}"
    _check_callable(found, name, owner)
    # What these two return ends up in the record, which holds Python's numbers and text only.
    if name == "points":
        return lambda: checked_points(found(), f"{owner}()")
    if name in ("declared_flops", "training_flops"):
        return lambda *arguments: as_number(f"{owner}()", found(*arguments), Range(0))
    return found


def _check_callable(hook: Any, name: str, owner: str) -> None:
    """Raise TypeError unless the hook takes the arguments that it will be called with."""
    if not callable(hook):
        raise TypeError(f"{owner} is {hook!r}, which cannot be called")
    try:
        signature = inspect.signature(hook)
    except ValueError:  # some callables written in C have none
        return
    try:
        signature.bind(*filter(None, ARGUMENTS[name].split(", ")))
    except TypeError as error:
        wanted = f"{name}({ARGUMENTS[name]})"
        raise TypeError(f"{owner}{signature} is called as {wanted}: {error}") from error


def _wrapped(wrap: Callable[..., Any], inner: Hooks) -> dict[str, Any]:
    """The inner method's ways to a model, each with `wrap(model, spec)` around it."""

    def build(spec: Any, backbone: Any) -> Any:
        return wrap(inner.build(spec, backbone), spec)

    def convert(dense: Any, batches: Iterable[Any]) -> Any:
        assert inner.convert is not None
        return wrap(inner.convert(dense, batches), dense.spec)

    return {"build": build, "convert": None if inner.convert is None else convert}


def _flags(method: Any, below: ResolvedMethod | None) -> Flags:
    defaults = Flags() if below is None else below.flags
    found = {name: _attribute(method, name, getattr(defaults, name)) for name in FLAGS}
    owner = type(method).__name__
    switches = ("batch_invariant", "open_is_dense", "reads_targets")
    return Flags(
        train_share=as_number(f"{owner}.train_share", found["train_share"], Range(0)),
        compaction=_phrase(f"{owner}.compaction", found["compaction"]),
        **{name: _switch(f"{owner}.{name}", found[name]) for name in switches},
    )


def _switch(name: str, value: Any) -> bool:
    """A bool. Anything else would count as true, also a method without @property."""
    plain = as_scalar(value)
    if not isinstance(plain, bool):
        raise TypeError(f"{name} is {value!r}: True or False is needed, or a @property of it")
    return plain


def _phrase(name: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}: text is needed")
    return encodable(value or "")


def _suspects(method: Any) -> tuple[str, ...]:
    """Public names that are nearly a hook's or a flag's, such as `calibrte`: "calibrte: ..."."""
    known = (*HOOKS, *FLAGS, *CONTROL)
    # A setting has its name on the command line: `point` is as good a name as any.
    settings = {each.name for each in dataclasses.fields(method)} - set(FLAGS)
    names = {name for name in dir(method) if not name.startswith("_")} - set(known) - settings
    near = ((name, difflib.get_close_matches(name, known, 1, SIMILAR)) for name in sorted(names))
    return tuple(f"{name}: did you mean {found[0]!r}?" for name, found in near if found)
