"""Every setting of every built-in plugin declares what it may be, and means it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest

from bench import plugins
from bench.check.tiny_tasks import TINY, shrink
from bench.plugins import Plugin, construct, defaults
from bench.plugins.annotations import setting_types
from bench.plugins.hooks import resolve
from bench.types import OneOf, Range, Unsupported
from methods.backbone.transformer import Transformer

# A method's name, of which the class itself has the list; a path.
FREE_TEXT = {"of", "keyword_file"}


def _built_ins() -> Iterator[Plugin]:
    for kind in plugins.GROUPS:
        for plugin in plugins.choices(kind).values():
            if plugin.distribution == "condbench":
                yield plugin


BUILT_INS = list(_built_ins())


def _limits(annotation: Any) -> list[Any]:
    """Everything in `Annotated` in an annotation, however deep."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return [*annotation.__metadata__, *_limits(inner[0])]
    return [limit for each in inner for limit in _limits(each)]


def _plain(annotation: Any) -> set[Any]:
    """The types at the leaves of an annotation."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _plain(inner[0])
    return {leaf for each in inner for leaf in _plain(each)} if inner else {annotation}


@pytest.mark.parametrize("plugin", BUILT_INS, ids=lambda p: f"{p.kind}-{p.name}")
def test_every_setting_has_a_range(plugin: Plugin) -> None:
    """Numbers have a Range and texts a OneOf, and the defaults are within."""
    cls = plugin.load()
    for name, annotation in setting_types(cls).items():
        needed = {int: Range, float: Range, str: OneOf}
        for leaf in _plain(annotation) & needed.keys():
            assert name in FREE_TEXT or any(
                isinstance(limit, needed[leaf]) for limit in _limits(annotation)
            ), name
    construct(cls, defaults(cls))


def _numeric() -> Iterator[Any]:
    for plugin in BUILT_INS:
        for name, annotation in setting_types(plugin.load()).items():
            if plugin.kind == "method" and _plain(annotation) & {int, float}:
                listed = get_origin(annotation) is list
                whole = int in _plain(annotation)
                yield pytest.param(plugin, name, listed, whole, id=f"{plugin.name}-{name}")


@pytest.mark.parametrize(("plugin", "name", "listed", "whole"), list(_numeric()))
def test_odd_values_are_refused_in_a_sentence_or_build(
    plugin: Plugin, name: str, listed: bool, whole: bool
) -> None:
    """0, -1, 1 and 17, NaN, infinity and 1e-9: no ZeroDivisionError, no empty layer.

    What the settings alone show is refused when they are made; where a dimension of the backbone
    plays a part, building raises ValueError or Unsupported.
    """
    for value in (0, -1, 1, 17) if whole else (0.0, -1.0, 1.0, 1e-9, math.nan, math.inf):
        refusal = _refusal(plugin.load(), {name: [value, value] if listed else value})
        assert "\n" not in refusal
        assert refusal or math.isfinite(value)


def _refusal(cls: type, settings: dict[str, Any]) -> str:
    """Why a method with these settings cannot be had on tiny images; "" where it can."""
    spec, backbone = TINY["image"].spec, shrink(Transformer)
    try:
        hooks = resolve(construct(cls, settings)).hooks
        if hooks.convert is not None:
            hooks.convert(backbone.build(spec), [TINY["image"].batch(2)])
        else:
            hooks.build(spec, backbone)
    except (ValueError, Unsupported) as refusal:
        return str(refusal)
    return ""
