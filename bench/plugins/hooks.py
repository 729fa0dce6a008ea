"""A method resolved once: what it does (callables) and what it is (flags).

    method = resolve(plugin)
    method.hooks.loss            a callable, or None where the default is meant
    method.flags.batch_invariant

Everybody who works with a method reads these two; nobody probes the plugin itself. A control that
stands in front of another method names it `inner` and changes its model in `wrap(model, spec)`:
hooks and flags that the control does not define are those of the inner method.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.types import Point


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
SIMILAR = 0.8  # of difflib's ratio: `calibrte` and `batch_invarient`, not `capacity`


def resolve(method: Any) -> ResolvedMethod:
    """What `method`, an instance of a plugin's dataclass, does and is.

    A hook that is set to None counts as left out, also where the inner method has one. Raises
    TypeError for a hook that cannot be called, or `set_point` without `points`.
    """
    inner = getattr(method, "inner", None)
    below = resolve(inner) if inner is not None else None
    hooks = {name: _hook(method, name, below) for name in HOOKS}
    if below is not None and hasattr(method, "wrap"):
        hooks |= _wrapped(method.wrap, below.hooks)
    if (hooks["points"] is None) != (hooks["set_point"] is None):
        raise TypeError("points() and set_point(model, point) come together: one is missing")
    if hooks["build"] is None and hooks["convert"] is None:
        raise TypeError(f"{type(method).__name__} has neither build() nor convert()")
    hooks["build"] = hooks["build"] or _no_build
    return ResolvedMethod(method, Hooks(**hooks), _flags(method, below), _suspects(method))


def _hook(method: Any, name: str, below: ResolvedMethod | None) -> Any:
    missing = object()
    found = getattr(method, name, missing)
    if found is missing:
        return None if below is None else getattr(below.hooks, name)
    if found is not None and not callable(found):
        raise TypeError(f"{type(method).__name__}.{name} is {found!r}, which cannot be called")
    return found


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
    found = {name: getattr(method, name, getattr(defaults, name)) for name in FLAGS}
    return Flags(
        train_share=float(found["train_share"]),
        batch_invariant=bool(found["batch_invariant"]),
        open_is_dense=bool(found["open_is_dense"]),
        reads_targets=bool(found["reads_targets"]),
        compaction=str(found["compaction"] or ""),
    )


def _suspects(method: Any) -> tuple[str, ...]:
    """Public names that are nearly a hook's or a flag's, such as `calibrte`: "calibrte: ..."."""
    known = (*HOOKS, *FLAGS, *CONTROL)
    settings = {each.name for each in dataclasses.fields(method)} - set(FLAGS)
    names = {name for name in dir(method) if not name.startswith("_")} - set(known) - settings
    near = ((name, difflib.get_close_matches(name, known, 1, SIMILAR)) for name in sorted(names))
    return tuple(f"{name}: did you mean {found[0]!r}?" for name, found in near if found)
