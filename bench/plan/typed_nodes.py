"""OmegaConf's typed nodes: the schema of a plugin, one value set in a node, a node as JSON.

OmegaConf checks types where a value is set, and its errors name the key. Everything that goes
beyond (ranges, conditions on several settings) is checked where the plugin is made.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.plan.explain import PlanError, explain
from bench.plan.overrides import Axis
from bench.plugins import Plugin
from bench.plugins.annotations import setting_types


def make_schema(plugin: Plugin) -> tuple[type, DictConfig]:
    """A plugin's class, imported, and the node that holds its defaults and types.

    Raises BrokenPlugin where it cannot be imported, or a setting has no usable type.
    """
    cls = plugin.load()
    try:
        # First our own check: OmegaConf's errors do not name the field, or are assertions.
        setting_types(cls)
        node = OmegaConf.structured(cls)
    except (TypeError, OmegaConfBaseException) as error:
        cause = " ".join(str(error).split())
        raise plugin.broken(f"its settings cannot be typed: {cause}") from error
    _drop_computed(node)
    return cls, node


def _drop_computed(node: DictConfig) -> None:
    """Remove fields that are no settings (`field(init=False)`), in nested dataclasses too."""
    # OmegaConf makes a key of every field, and refuses to delete keys of a structured config.
    # Its content is changed directly, so that the node keeps the type of the class.
    content: dict[Any, Any] = node.__dict__["_content"]
    cls = OmegaConf.get_type(node)
    for each in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        inner = content.get(each.name)
        if not each.init:
            content.pop(each.name, None)
        elif isinstance(inner, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(inner)):
            _drop_computed(inner)


def assign(config: DictConfig, axis: Axis, value: Any) -> Any:
    """Set one value in place and return it as JSON holds it. Raises PlanError."""
    where = f"{axis.source}, {axis.key}={value}"
    *blocks, leaf = axis.key.split(".")
    node: Any = config
    try:
        for block in blocks:
            node = node[block]
        if not isinstance(node, DictConfig):
            raise PlanError(f"{where}: {'.'.join(blocks)} is one value and has no keys")
        # Replacing a whole block would drop the keys that the value does not name.
        if dataclasses.is_dataclass(OmegaConf.get_type(node, leaf)):
            raise PlanError(f"{where}: {axis.key} is a block: set its keys one by one")
        node[leaf] = value
    except OmegaConfBaseException as error:
        raise PlanError(explain(error, where)) from error
    held = node[leaf]  # converted: "3" for an int is 3 now
    if isinstance(held, enum.Enum):
        return held.name
    if held is None or isinstance(held, str | int | float):  # by far the most
        return held
    return as_json(OmegaConf.create({leaf: held}))[leaf]


def as_json(config: DictConfig, *, resolve: bool = True) -> Any:
    """A node as trial.json holds it: members of enumerations by name, paths as text."""
    content = OmegaConf.to_container(config, resolve=resolve, enum_to_str=True)
    # Through text, so that a plan sees what a trial will read: keys become text, tuples lists.
    return json.loads(json.dumps(content, default=str))
