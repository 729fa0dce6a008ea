"""`condbench list`: what there is to choose from, and what is installed but cannot be used."""

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

HEADINGS = {
    "method": "methods (method=NAME)",
    "backbone": "backbones (backbone=NAME)",
    "task": "tasks (task=NAME): an input; samples to train / calibrate / test",
}
BASE = re.compile(r"^defaults:\s*\n\s*-\s*(\w+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Variant:
    """A named file of settings: its name, what it says of itself, whose settings they are."""

    name: str
    about: str
    base: str = ""


def listing() -> Iterator[str]:
    """Lines for a terminal: plugins with one sentence each, their named variants, experiments.

    Variants stand below their plugin; a backbone's are its sizes. No task makes its data for it.
    """
    conf = files("bench.conf")
    for kind, heading in HEADINGS.items():
        yield heading
        variants: dict[str, list[Variant]] = defaultdict(list)
        for variant in _variants(conf / kind):
            variants[variant.base].append(variant)
        for name, plugin in plugins.choices(kind).items():
            yield f"  {name:<20} {_line(plugin)}"
            yield from _indented(variants.pop(name, []))
        yield from _indented([each for left in variants.values() for each in left])
        yield ""
    yield "experiments (experiment=NAME)"
    for name, about in described(conf / "experiment"):
        yield f"  {name:<20} {about}"


def _indented(variants: list[Variant]) -> list[str]:
    return [f"    {each.name:<22} {each.about}" for each in variants]


def _line(plugin: Plugin) -> str:
    origin = "" if plugin.distribution == "condbench" else f" [{plugin.distribution}]"
    try:
        said = plugins.summary(plugin)
        if plugin.kind == "task":
            return f"{_data(plugin)}{said}{origin}"
        size = getattr(plugin.load(), "size", None) if plugin.kind == "backbone" else None
        return f"{said}{f' As it is: {size}.' if isinstance(size, str) else ''}{origin}"
    except BrokenPlugin as error:
        return f"BROKEN: {error}"


def _data(plugin: Plugin) -> str:
    """A task's input and numbers of samples, as "image 1x16x16; 64,000 / 1,000 / 2,000: ".

    Nothing where it cannot say; no numbers where they are not known without the data.
    """
    try:
        task = plugin.load()()
        counts = getattr(task, "split_sizes", {})
        numbers = " / ".join(f"{counts[split]:,}" for split in counts)
        return f"{_input(task.spec)}{f'; {numbers}' if numbers else ''}: "
    except Exception:  # whatever a task does where its data is missing
        return ""


def _input(spec: Any) -> str:
    """As "image 1x16x16" or, of a pair, "seq2seq 17 to 22"."""
    shape = "x".join(map(str, spec.input_shape))
    return f"{spec.kind} {shape}" + (f" to {spec.target_length}" if spec.target_length else "")


def described(folder: Traversable) -> Iterator[tuple[str, str]]:
    """Name and first sentence of the first comment of every file below `folder`."""
    return ((each.name, each.about) for each in _variants(folder))


def _variants(folder: Traversable, prefix: str = "") -> Iterator[Variant]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _variants(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            text = entry.read_text(encoding="utf-8")
            base = BASE.search(text)
            name = prefix + entry.name.removesuffix(".yaml")
            yield Variant(name, _first_comment(text), base.group(1) if base else "")


def _first_comment(text: str) -> str:
    """The first sentence of the first lines of comment that follow one another."""
    found: list[str] = []
    for line in text.splitlines():
        said = line[1:].strip() if line.startswith("#") else ""
        if said and not said.startswith("@"):  # Hydra's own "# @package"
            found.append(said)
        elif found:
            break
    return plugins.first_sentence(" ".join(found))
