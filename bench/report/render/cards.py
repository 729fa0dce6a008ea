"""How each trial routed, and what hinders its deployment: one card per trial.

The fields are those of the records' `diagnostics`, for every family of methods. They are untrusted:
a value of an unexpected type counts as missing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from bench.records.record import Record
from bench.report.figures.pictures import bars, load_map
from bench.report.tables.numbers import number
from bench.report.tables.table import Table, trial_name
from bench.report.tables.untrusted import (
    Entry,
    entries_of,
    entry_of,
    listed,
    names_of,
    number_of,
    numbers_of,
)
from bench.report.tables.warnings import warnings

MAX_GATES = 64  # in a picture: narrower bars are not visible
LOAD = "load of each gate (line) by expert or branch: half shade = equal load, framed = dead"


@dataclass(frozen=True)
class Picture:
    """An SVG and what it shows."""

    caption: str
    svg: Markup


@dataclass
class Card:
    """The diagnostics of one trial as text and pictures."""

    name: str
    warnings: list[str]
    pictures: list[Picture] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    # Titles of missing figures by reason: one reason often covers several.
    missing: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def cards(table: Table) -> list[Card]:
    """A card per finished trial with diagnostics, in the order of the table."""
    records = (found.record for found in table.found)
    return [_card(record) for record in records if record.status == "ok" and _has_any(record)]


def _has_any(record: Record) -> bool:
    return bool(record.diagnostics.keys() & {"routing", "deployability"})


def _card(record: Record) -> Card:
    titles = [f"{title}: {names}" for title, names in warnings(record).items()]
    card = Card(f"{trial_name(record.labels)} (seed {record.labels.seed})", titles)
    routing = entry_of(record.diagnostics.get("routing"))
    gates = entries_of(routing.get("gates"))
    _draw(card, routing, gates)
    if gates:
        _describe_gates(card, gates)
    _describe_routing(card, routing)
    _describe_deployment(card, entry_of(record.diagnostics.get("deployability")))
    return card


def _draw(card: Card, routing: Entry, gates: Sequence[Entry]) -> None:
    """Add the pictures: executed share by gate, load, histograms, and the same by task."""
    card.pictures += _gate_pictures(gates, "")
    frames = entries_of(routing.get("by_frame"))
    if len(frames) > 1:  # shares of samples and of tokens do not mix in one histogram
        for frame in frames:
            names = names_of(frame.get("gates"))
            card.pictures += _histograms(frame, f", of {_ends(names)}" if names else "")
    else:
        card.pictures += _histograms(routing, "")
    # A mixture of tasks: which branches serve which task.
    for task in entries_of(routing.get("by_task")):
        flops = number_of(task.get("flops_per_sample"))
        cost = f", {_flops_text(flops)} FLOPs per sample" if flops is not None else ""
        card.pictures += _gate_pictures(
            entries_of(task.get("gates")), f" for task {task.get('task', '?')}{cost}"
        )


def _histograms(found: Entry, of: str) -> list[Picture]:
    """The exit histogram where gates are nested, otherwise the depth histogram."""
    for key, word in (("exit_histogram", "exit"), ("depth_histogram", "depth")):
        shares = numbers_of(found.get(key))
        if shares:
            words = ", ".join(f"{place}: {share:.1%}" for place, share in enumerate(shares))
            span = f"share of elements by number of gates executed, 0 to {len(shares) - 1}"
            # The caption names the axis, the title of the SVG has the numbers.
            return [Picture(f"{word} histogram: {span}{of}", bars(shares, f"{word}s: {words}"))]
    return []


def _gate_pictures(gates: Sequence[Entry], of: str) -> list[Picture]:
    """Load where gates have groups, otherwise the share of elements that run."""
    cut = f" (the first {MAX_GATES} of {len(gates)} gates)" if len(gates) > MAX_GATES else ""
    shown = gates[:MAX_GATES]
    shares = [(_name(gate), number_of(gate.get("executed_share"))) for gate in shown]
    known = [(name, share) for name, share in shares if share is not None]
    pictures = []
    if known:
        words = ", ".join(f"{name}: {share:.1%}" for name, share in known)
        caption = f"executed share by gate{of}, {_ends([name for name, _ in known])}{cut}"
        pictures.append(Picture(caption, bars([share for _, share in known], words)))
    loads = [(_name(gate), load) for gate in shown if (load := numbers_of(gate.get("load")))]
    if loads:
        words = "; ".join(f"{name}: {' '.join(f'{x:.0%}' for x in load)}" for name, load in loads)
        pictures.append(Picture(LOAD + of + cut, load_map([load for _, load in loads], words)))
    return pictures


def _describe_gates(card: Card, gates: Sequence[Entry]) -> None:
    """Add figures over all gates: largest imbalance, mean entropy and margin, no warnings."""
    card.facts.append(("gates", str(len(gates))))
    worst = [
        (x, _name(gate)) for gate in gates if (x := number_of(gate.get("imbalance"))) is not None
    ]
    if worst:  # absent where gates have no groups to balance
        value, name = max(worst)
        card.facts.append(("largest imbalance", f"{number(value)}x an equal load ({name})"))
    for key, text in (("entropy", "of the largest possible"), ("margin", "of probability")):
        values = [x for gate in gates if (x := number_of(gate.get(key))) is not None]
        if values:
            mean = number(math.fsum(values) / len(values))
            card.facts.append((f"router {key}, mean over gates", f"{mean} {text}"))
        else:
            card.missing["no gate reports one"].append(f"router {key}")
    if not card.warnings:  # an absence that was checked is a fact of its own
        card.facts.append(("collapsed gates, dead branches", "none"))


def _describe_routing(card: Card, routing: Entry) -> None:
    """Add figures of the whole model, and the reason for each one that is null."""
    reasons = entry_of(routing.get("reasons"))
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        "num_paths": ("distinct paths", lambda value: f"{value:.0f}"),
        "path_entropy": ("path entropy", lambda value: f"{number(value)} nat"),
        "compute_difficulty_correlation": (
            "rank correlation of FLOPs and difficulty",
            lambda value: f"{value:+.2f}",
        ),
        "router_flops_share": ("router's share of FLOPs", lambda value: f"{value:.1%}"),
    }
    if number_of(routing.get("budget_error")) is not None:  # few methods have a budget
        shown["budget_error"] = ("compute that ran minus the budget", lambda value: f"{value:+.1%}")
    # The batch sizes differ between trials, and the key is untrusted text.
    for key in (name for name in routing if name.startswith("router_time_share_b")):
        size = key.removeprefix("router_time_share_b")
        shown[key] = (f"router's share of time, batch {size}", lambda value: f"{value:.1%}")
    for key, (title, write) in shown.items():
        value = number_of(routing.get(key))
        if value is not None:
            card.facts.append((title, write(value)))
        else:
            card.missing[str(reasons.get(key, "not in the record"))].append(title)
    # These are pictures where they exist; here only the reason for a missing one.
    for key in ("exit_histogram", "depth_histogram", "by_task"):
        if not routing.get(key):
            title = key.replace("_", " ")
            card.missing[str(reasons.get(key, "not in the record"))].append(title)


def _describe_deployment(card: Card, found: Entry) -> None:
    """Add torch.compile, torch.export and host synchronisations."""
    for key, title, write in (
        ("compile", "torch.compile", _compile_text),
        ("export", "torch.export", _export_text),
    ):
        entry = entry_of(found.get(key))
        if entry:
            card.facts.append((title, write(entry)))
        else:
            card.missing[str(found.get(f"{key}_reason", "not in the record"))].append(title)
    key, title = "host_syncs_per_forward", "host synchronisations per pass"
    count = number_of(found.get(key))
    if count is not None:
        card.facts.append((title, f"{count:.0f}"))
    else:
        card.missing[str(found.get(f"{key}_reason", "not in the record"))].append(title)


def _compile_text(entry: Entry) -> str:
    graphs, breaks = (number_of(entry.get(f"num_{key}")) for key in ("graphs", "graph_breaks"))
    if graphs is None or breaks is None:
        return "recorded, but not readable"
    why = names_of(entry.get("break_reasons"))
    return f"{graphs:.0f} graphs, {breaks:.0f} graph breaks" + (f": {listed(why)}" if why else "")


def _export_text(entry: Entry) -> str:
    size = number_of(entry.get("batch_size"))
    return "exports with a fixed batch" + (f" of {size:.0f}" if size is not None else "")


def _flops_text(value: float) -> str:
    for divisor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= divisor:
            return f"{number(value / divisor)} {prefix}"
    return number(value)


def _ends(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _name(gate: Entry) -> str:
    return str(gate.get("name", "?"))
