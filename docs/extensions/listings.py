"""What can be chosen, set and measured, as Markdown: plugins, conf/, the command line, metrics."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from docs.extensions.api import fields_table
from docs.extensions.markdown import code, escape, prose, table

ROOT = Path(__file__).parents[2]


def fields_page(target: str) -> list[str]:
    """The fields of `module:Class`."""
    module, _, name = target.partition(":")
    return fields_table(getattr(importlib.import_module(module), name))


def plugins_page(kind: str) -> list[str]:
    """Every plugin of this distribution: its docstring, settings and named variants."""
    from bench import plugins  # late: torch is imported only where a page shows plugins

    lines = []
    variants = _variants(kind)
    for name, plugin in plugins.choices(kind).items():
        if plugin.distribution != "condbench":
            continue  # installed in this environment by chance
        cls = plugin.load()
        path = Path(inspect.getfile(cls)).relative_to(ROOT)
        lines += [f"### {code(name)}", "", *prose(inspect.getdoc(cls) or ""), ""]
        lines += [f"Source: {code(str(path))}.", "", *fields_table(cls)]
        lines += table([f"{kind}=", "variant"], variants.get(name, []))
    return lines


def _variants(kind: str) -> dict[str, list[tuple[str, str]]]:
    """Named variants by the plugin that they set: (name, what the file says of itself)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path, about in _described(kind):
        # Hydra's defaults list of a variant has one entry: the plugin.
        (base,) = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
        found.setdefault(base, []).append((code(path.stem), escape(about)))
    return found


def group_page(group: str) -> list[str]:
    """The files of one folder of conf/: the choice, and what the file says of itself."""
    folder = ROOT / "conf" / group
    rows = [
        (code(str(path.relative_to(folder).with_suffix(""))), escape(about))
        for path, about in _described(group)
    ]
    return table([f"{group}=", ""], rows)


def compared_page(group: str) -> list[str]:
    """The settings of every file of one folder of conf/, side by side."""
    files = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path, _ in _described(group)}
    # In the order of the first file that has them.
    settings = list(dict.fromkeys(name for content in files.values() for name in content))
    rows = [
        [code(name), *(code(str(content.get(name, ""))) for content in files.values())]
        for name in settings
    ]
    return table(["setting", *(code(f"{group}={name}") for name in files)], rows)


def _described(group: str) -> list[tuple[Path, str]]:
    """Every file below conf/`group` with its first comment that is not one of Hydra's."""
    found = []
    for path in sorted((ROOT / "conf" / group).rglob("*.yaml")):
        about: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# @"):  # Hydra's "# @package _global_"
                continue
            if not line.startswith("#"):
                break
            about.append(line.lstrip("# "))
        found.append((path, " ".join(about)))
    return found


def verbs_page(_: str) -> list[str]:
    """The help of the command and of each of its verbs."""
    from bench.cli.arguments import parser

    top = parser()
    # argparse has no public way to the parsers of its verbs.
    verbs = next(action.choices for action in top._actions if isinstance(action.choices, dict))
    # It wraps at the terminal's width, which differs from build to build.
    with patch.dict(os.environ, COLUMNS="96"):
        lines = _output(top.format_help())
        for name, verb in verbs.items():
            lines += [f"### condbench {name}", "", *_output(verb.format_help())]
    return lines


def _output(text: str) -> list[str]:
    return ["```text", *text.splitlines(), "```", ""]


def metrics_page(_: str) -> list[str]:
    """The metric catalogue, one table for each thing that metrics are measured over."""
    from bench.records.catalogue import ENTRIES

    lines = []
    # Every entry has an `over`, so no metric can be left out of the page.
    for over in dict.fromkeys(entry.over for entry in ENTRIES):
        chosen = [entry for entry in ENTRIES if entry.over == over]
        header = ["key", "title", "unit", "range", "operating points", "shown"]
        lines += [f"### Over {over}", "", *table(header, map(_metric_row, chosen))]
    return lines


def _metric_row(entry: Any) -> list[str]:
    unit = entry.unit or "the task's"
    shown = entry.shown.value
    return [code(entry.key), entry.title, unit, _range(entry.quantity), entry.points, shown]


def _range(quantity: Any) -> str:
    """The values that are possible, as an interval; "" where any number is."""
    low, high = quantity.low, quantity.high
    # A count, a size or a time begins at 0; only a share also has an upper end.
    if low == float("-inf") and high == float("inf"):
        return ""
    left = "[" if quantity.includes_low else "("
    return f"{left}{low:g}, {high:g}]" if high != float("inf") else f"{left}{low:g}, ∞)"
