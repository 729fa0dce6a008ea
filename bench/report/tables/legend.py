"""What every table says in words: how it was measured, and what stands below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.records.reading import Found, config_block
from bench.report.render.cards import alarm_lines
from bench.report.tables.columns import Sheet
from bench.report.tables.numbers import number
from bench.report.tables.rows import Table

CONVENTION = (
    "FLOPs: 2 x MAC, executed, padding included (in convolutions the zero padding too).",
    "Speed-up: dense time / method time on the same inputs, paired in one process, with its 95 % "
    "interval; a tie where the interval holds 1. Realised: speed-up / FLOP ratio.",
)
PRECISION = {"32": "fp32", "16": "fp16", "bf16": "bf16"}


def conditions(table: Table) -> str:
    """Profile, hardware, threads, number format and seeds in one sentence."""
    measure = config_block(table.found[0].record, "measure")
    counts = {**measure, **_generated(table)}
    care = [f"{counts[k]} {word}" for k, word in _CARE if k in counts]
    threads = _values(table, lambda found: found.record.environment.get("num_threads"))
    precision = _values(table, lambda found: config_block(found.record, "gpu").get("precision"))
    parts = [
        f"{table.hardware} ({_or_unknown(_processors(table))})",
        f"{_or_unknown(threads)} {'thread' if threads == ['1'] else 'threads'}",
        _or_unknown(PRECISION.get(kind, kind) for kind in precision),
        f"measure={table.profile}" + (f" ({', '.join(care)})" if care else ""),
        _seeds(table),
    ]
    return "; ".join(parts) + "."


def _seeds(table: Table) -> str:
    word = "seed" if len(table.seeds) == 1 else "seeds"
    listed = ", ".join(map(str, table.seeds))
    return f"{word} {listed}" if listed else "no finished trial"


_CARE = (("rounds", "rounds"), ("num_inputs", "inputs"))


def below(table: Table, sheet: Sheet) -> list[str]:
    """The lines under a table: alarms, footnotes, unfinished trials, notes, conventions."""
    return [
        *alarm_lines(table),
        *(f"({letter}) {reason}" for letter, reason in sheet.footnotes),
        *table.unfinished,
        *table.notes,
        *references(table),
        *CONVENTION,
        *generation(table),
        provenance(table),
    ]


def generation(table: Table) -> list[str]:
    """What the numbers of a table are of, where a call generates."""
    lengths = [_number_of(table, f"infer/num_{name}_tokens") for name in ("prompt", "output")]
    if None in lengths:
        return []
    return [
        f"A call reads {lengths[0]} tokens and writes {lengths[1]}, greedily and with a cache: "
        "FLOPs, speed-up, memory and energy are of whole generations. TTFT: time to the first "
        "token of a batch; TPOT: time per further token of a batch; their speed-ups: in turns with "
        "dense. FLOPs, memory and energy per token: what a further token of a sample adds."
    ]


def _generated(table: Table) -> dict[str, int]:
    """A generation is many calls, so fewer inputs than the config says may have been used."""
    count = _number_of(table, "infer/num_generated_inputs")
    return {} if count is None else {"num_inputs": count}


def _number_of(table: Table, key: str) -> int | None:
    """A count that all rows share, from the first row that has it."""
    values = (row.cells[key].value for row in table.rows if key in row.cells)
    return next((round(value) for value in values if value is not None), None)


def references(table: Table) -> list[str]:
    """What guessing and known baselines reach, in the unit of the quality column."""
    if table.quality is None:
        return []
    levels = dict(table.quality.references)
    if table.quality.chance is not None:
        levels = {"chance": table.quality.chance, **levels}
    listed = ", ".join(f"{name} {number(value, digits=4)}" for name, value in levels.items())
    return [f"quality of references: {listed}"] if levels else []


def provenance(table: Table) -> str:
    """Software, commit, data and noise of the trials behind a table."""
    versions = ("condbench", "torch", "python")
    count = len(table.found)
    parts = [f"{count} trial" if count == 1 else f"{count} trials"]
    parts += [f"{name} {_or_unknown(_versions(table, name))}" for name in versions]
    parts.append(f"commit {_or_unknown(_commits(table))}")
    data = _values(table, _data_hash)
    if data:
        parts.append(f"data {', '.join(data)}")
    parts += noise_floors(table)
    return "Made from " + ", ".join(parts) + "."


def noise_floors(table: Table) -> list[str]:
    """How far a model timed against itself was from 1; above the limit a session is noisy."""
    return [
        f"{'noisy: ' * floor.is_noisy}A/A noise {size} {floor.value:.1%}"
        for size, floor in table.noise_floors.items()
    ]


def _processors(table: Table) -> list[str]:
    def name(found: Found) -> Any:
        environment = found.record.environment
        gpus = environment.get("gpus")
        if found.record.labels.device != "cpu" and isinstance(gpus, list) and gpus:
            return gpus[0].get("name") if isinstance(gpus[0], dict) else None
        return environment.get("cpu_model")

    return _values(table, name)


def _versions(table: Table, package: str) -> list[str]:
    def version(found: Found) -> Any:
        versions = found.record.environment.get("versions")
        return versions.get(package) if isinstance(versions, dict) else None

    return _values(table, version)


def _commits(table: Table) -> list[str]:
    def commit(found: Found) -> Any:
        full = found.record.environment.get("git_commit")
        return str(full)[:10] + ("-dirty" if str(full).endswith("-dirty") else "") if full else None

    return _values(table, commit)


def _data_hash(found: Found) -> Any:
    identity = found.record.provenance.get("identity")
    data = identity.get("data") if isinstance(identity, dict) else None
    return str(data)[:10] if data else None


def _values(table: Table, of: Callable[[Found], Any]) -> list[str]:
    """The different values among a table's trials, as text, those that do not say left out."""
    values = (of(found) for found in table.found)
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _or_unknown(values: Iterable[str]) -> str:
    return " / ".join(values) or "unknown"
