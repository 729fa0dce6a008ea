"""`condbench list`: what there is to choose from, and what is installed but cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from bench import plugins
from bench.plugins import BrokenPlugin, Plugin

HEADINGS = {"method": "methods", "backbone": "backbones", "task": "tasks"}


def listing() -> Iterator[str]:
    """Lines for a terminal: plugins with one sentence each, their named variants, experiments.

    A task begins with its kind; a backbone's variants are its sizes.
    """
    conf = files("bench.conf")
    for kind, heading in HEADINGS.items():
        yield f"{heading} ({kind}=NAME)"
        for name, plugin in plugins.choices(kind).items():
            origin = "" if plugin.distribution == "condbench" else f" [{plugin.distribution}]"
            try:
                yield f"  {name:<20} {_kind(plugin)}{plugins.summary(plugin)}{origin}"
            except BrokenPlugin as error:
                yield f"  {name:<20} BROKEN: {error}"
        for name, about in described(conf / kind):
            yield f"    {name:<22} {about}"
        yield ""
    yield "experiments (experiment=NAME)"
    for name, about in described(conf / "experiment"):
        yield f"  {name:<20} {about}"


def _kind(plugin: Plugin) -> str:
    """What a task is made of, as "image: "; nothing for other plugins and where it cannot say."""
    if plugin.kind != "task":
        return ""
    try:
        return f"{plugin.load()().spec.kind}: "
    except Exception:  # whatever a task does where its data is missing
        return ""


def described(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and first comment of every file below `folder`."""
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from described(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            lines = entry.read_text(encoding="utf-8").splitlines()
            comments = [line[1:].strip() for line in lines if line.startswith("#")]
            about = [text for text in comments if not text.startswith("@")]
            yield prefix + entry.name.removesuffix(".yaml"), about[0] if about else ""
