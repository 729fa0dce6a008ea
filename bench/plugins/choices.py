"""Entry points become choices: methods, backbones and tasks, built in or installed.

    [project.entry-points."condbench.methods"]
    top1_moe = "my_moe:Top1MoE"

A plugin is a dataclass of its settings. Names are listed without importing anything; a class is
imported when it is used. One that cannot be imported is named with the cause.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

GROUPS = {
    "method": "condbench.methods",
    "backbone": "condbench.backbones",
    "task": "condbench.tasks",
}
VARIANTS = "condbench.variants"  # packages with method/NAME.yaml, backbone/..., task/...
# What a class of each kind must have, one of them at least.
DOORS = {"method": ("build", "convert", "wrap"), "backbone": ("build",), "task": ("evaluate",)}


# A name is one part of a path, and one word of a command line.
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class PluginError(Exception):
    """A plugin that is unknown or named twice; the message lists the choices."""


class BrokenPlugin(PluginError):
    """A plugin that cannot be used; the message names it and the cause."""


@dataclass(frozen=True)
class Plugin:
    """One choice: `kind` is method, backbone or task, `target` the class as `module:Class`."""

    kind: str
    name: str
    target: str
    distribution: str
    version: str

    def load(self) -> type:
        """The class, imported. Raises BrokenPlugin with the cause."""
        if not NAME.fullmatch(self.name):
            raise self.broken("its name may hold letters, digits and . _ - within, nothing else")
        module, _, attribute = self.target.partition(":")
        try:
            loaded = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever a foreign module does when imported
            raise self.broken(f"{type(error).__name__}: {error}") from error
        if not (isinstance(loaded, type) and dataclasses.is_dataclass(loaded)):
            raise self.broken(f"{self.target} is not a dataclass")
        if not any(hasattr(loaded, door) for door in DOORS[self.kind]):
            raise self.broken(f"{self.target} has no {'() or '.join(DOORS[self.kind])}()")
        return loaded

    def broken(self, cause: str) -> BrokenPlugin:
        """The error with the reason why this plugin cannot be used."""
        origin = f"{self.distribution} {self.version}, {self.target}"
        return BrokenPlugin(f"{self.kind} {self.name!r} ({origin}) cannot be used: {cause}")


def choices(kind: str) -> dict[str, Plugin]:
    """Every plugin of a kind by name, sorted; nothing is imported.

    Raises PluginError when two distributions give one name to different classes.
    """
    found: dict[str, Plugin] = {}
    # Metadata only: importing every installed plugin would load torch, and run foreign code.
    for point in metadata.entry_points(group=GROUPS[kind]):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist else ("unknown", "0")
        plugin = Plugin(kind, point.name, point.value.replace(" ", ""), name, version)
        # An editable install may list the same entry point twice, which is no conflict.
        other = found.setdefault(plugin.name, plugin)
        if other.target != plugin.target:
            raise PluginError(
                f"{kind} {plugin.name!r} is provided twice: {other.target} by "
                f"{other.distribution}, {plugin.target} by {plugin.distribution}; uninstall one"
            )
    return dict(sorted(found.items()))


def variant_packages() -> list[str]:
    """The packages in which installed plugins keep their named variants; nothing is imported.

    Raises PluginError for one that is not there.
    """
    found = sorted({point.value for point in metadata.entry_points(group=VARIANTS)})
    for name in found:
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:  # of the package that holds it
            spec = None
        if spec is None or spec.submodule_search_locations is None:
            raise PluginError(f"{VARIANTS}: {name!r} is not an installed package")
    return found


def find(kind: str, name: str) -> Plugin:
    """The plugin of that name. Raises PluginError listing the choices."""
    known = choices(kind)
    if name not in known:
        raise PluginError(unknown(kind, name, known))
    return known[name]


def unknown(what: str, name: str, known: Iterable[str], place: str = "") -> str:
    """A sentence for a name that nothing has: the nearest one first, then all choices."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    where = f" in {place}" if place else ""
    return f"unknown {what} {name!r}{where}: {hint}choices: {', '.join(names) or 'none'}"


def summary(plugin: Plugin) -> str:
    """The first sentence of a plugin's docstring. Raises BrokenPlugin."""
    loaded = plugin.load()
    paragraph = " ".join((loaded.__doc__ or "").strip().partition("\n\n")[0].split())
    # A dataclass without a docstring gets its signature for one, which describes nothing.
    if paragraph.startswith(f"{loaded.__name__}("):
        return ""
    return first_sentence(paragraph)


def first_sentence(text: str) -> str:
    """Up to the first full stop before a capital letter: "et al. 2021" does not end one."""
    return re.split(r"(?<=\.)\s(?=[A-Z])", text)[0]
