"""`condbench list`: the available plugins, variants and experiments, and broken plugins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from bench import plugins
from bench.plugins import BrokenPlugin, Plugin
from bench.types import extras_of

HEADINGS = {
    "method": "methods (method=NAME)",
    "backbone": "backbones (backbone=NAME)",
    "task": "tasks (task=NAME): an input; samples to train / calibrate / test",
}
# The first entry of a variant's defaults list names the plugin whose settings it changes.
BASE = re.compile(r"^defaults:\s*\n\s*-\s*(\w+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Variant:
    """A named file of settings: its name, its first sentence, the plugin that it configures."""

    name: str
    about: str
    base: str = ""


def listing() -> Iterator[str]:
    """Lines for a terminal: plugins with one sentence each, their named variants, experiments.

    Variants are listed below their plugin; those of a backbone are its sizes. No task generates
    its data. Raises PluginError where two distributions provide the same name.
    """
    conf = files("bench.conf")
    for kind, heading in HEADINGS.items():
        yield heading
        variants: dict[str, list[Variant]] = defaultdict(list)
        for folder in (conf, *map(files, plugins.variant_packages())):
            for variant in _variants(folder / kind):
                variants[variant.base].append(variant)
        for name, plugin in plugins.choices(kind).items():
            yield f"  {name:<20} {_line(plugin)}"
            yield from _indented(variants.pop(name, []))
        # Variants without a known base, for example of a plugin that is not installed.
        yield from _indented([each for left in variants.values() for each in left])
        yield ""
    yield "experiments (experiment=NAME)"
    for name, about in descriptions(conf / "experiment"):
        yield f"  {name:<20} {about}"


def _indented(variants: list[Variant]) -> list[str]:
    return [f"    {each.name:<22} {each.about}" for each in variants]


def _line(plugin: Plugin) -> str:
    """A plugin in one line; a broken one with its cause, so that `list` itself never fails."""
    origin = "" if plugin.distribution == "condbench" else f" [{plugin.distribution}]"
    try:
        about = plugins.summary(plugin)
        if plugin.kind == "task":
            return f"{_describe_data(plugin)}{about}{origin}"
        size = getattr(plugin.load(), "size", None) if plugin.kind == "backbone" else None
        # A foreign backbone may use the name `size` for something else.
        return f"{about}{f' Defaults: {size}.' if isinstance(size, str) else ''}{origin}"
    except BrokenPlugin as error:
        return f"BROKEN: {error}"


def _describe_data(plugin: Plugin) -> str:
    """A task's input and sample counts, as "image 1x16x16; 64,000 / 1,000 / 2,000: ".

    Empty where the task raises; without counts where they are not known before loading the data.
    """
    try:
        task = plugin.load()()
        counts = extras_of(task).split_sizes
        # train / calibrate / test, in the order in which the task states them.
        numbers = " / ".join(f"{counts[split]:,}" for split in counts)
        return f"{_describe_input(task.spec)}{f'; {numbers}' if numbers else ''}: "
    except Exception:  # a task may raise anything where its data or packages are missing
        return ""


def _describe_input(spec: Any) -> str:
    """As "image 1x16x16", or "seq2seq 17 to 22" with source and target length."""
    shape = "x".join(map(str, spec.input_shape))
    return f"{spec.kind} {shape}" + (f" to {spec.target_length}" if spec.target_length else "")


def descriptions(folder: Traversable) -> Iterator[tuple[str, str]]:
    """Name and first sentence of the first comment, for every YAML file below `folder`."""
    return ((each.name, each.about) for each in _variants(folder))


def _variants(folder: Traversable, prefix: str = "") -> Iterator[Variant]:
    """The YAML files below `folder`, sorted; names of subfolders become prefixes, as in Hydra.

    None where there is no such folder.
    """
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _variants(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            text = entry.read_text(encoding="utf-8")
            base = BASE.search(text)  # without a YAML parser: `list` starts without Hydra
            name = prefix + entry.name.removesuffix(".yaml")
            yield Variant(name, _first_comment(text), base.group(1) if base else "")


def _first_comment(text: str) -> str:
    """The first sentence of the first block of comment lines."""
    found: list[str] = []
    for line in text.splitlines():
        comment = line[1:].strip() if line.startswith("#") else ""
        if comment and not comment.startswith("@"):  # Hydra's own "# @package"
            found.append(comment)
        elif found:
            break
    return plugins.first_sentence(" ".join(found))
