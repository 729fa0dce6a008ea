"""The words around a table: the conditions above it and the lines below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.records.catalogue import GENERATED_INPUTS, OUTPUT_TOKENS, PROMPT_TOKENS, QUALITY
from bench.records.reading import Found, config_block
from bench.report.tables.numbers import number
from bench.report.tables.processes import spreads
from bench.report.tables.sheet import Sheet
from bench.report.tables.table import Table
from bench.report.tables.warnings import warning_lines

CONVENTION = (
    "FLOPs: 2 x MAC, executed, padding included (in convolutions also the zero padding).",
    "Speed-up: dense time / method time on the same inputs, in paired rounds, with its 95 % "
    "interval over processes and sessions. No clear difference (tie): the interval contains 1. "
    "Realised: speed-up / FLOP ratio; 1 where the FLOP saving is fully realised.",
)
COUNTS = (
    ("processes", "processes"),
    ("rounds", "rounds"),
    ("num_inputs", "inputs"),
)  # of the measure profile, with their word
PRECISION = {"32": "fp32", "16": "fp16", "bf16": "bf16"}


def conditions(table: Table) -> str:
    """Profile, hardware, threads, number format and seeds in one sentence."""
    measure = config_block(table.found[0].record, "measure")
    # All trials of a table share their measure block: it is part of the table's key.
    counts = {**measure, **_generated(table)}
    effort = [f"{counts[key]} {word}" for key, word in COUNTS if key in counts]
    threads = _values(table, lambda found: found.record.environment.get("num_threads"))
    precision = _values(table, lambda found: config_block(found.record, "gpu").get("precision"))
    parts = [
        f"{table.hardware} ({_or_unknown(_processors(table))})",
        f"{_or_unknown(threads)} {'thread' if threads == ['1'] else 'threads'}",
        _or_unknown(PRECISION.get(kind, kind) for kind in precision),
        f"measure={table.profile}" + (f" ({', '.join(effort)})" if effort else ""),
        _seeds(table),
    ]
    return "; ".join(parts) + "."


def _seeds(table: Table) -> str:
    word = "seed" if len(table.seeds) == 1 else "seeds"
    listed = ", ".join(map(str, table.seeds))
    return f"{word} {listed}" if listed else "no finished trial"


# Ordered by urgency: what invalidates a row first, what holds for every table last.
def lines_below(table: Table, sheet: Sheet) -> list[str]:
    """The lines under a table: warnings, footnotes, unfinished trials, notes, conventions."""
    return [
        *warning_lines(table),
        *(f"({letter}) {reason}" for letter, reason in sheet.footnotes),
        *sheet.absent,
        *table.unfinished,
        *table.notes,
        *references(table),
        *CONVENTION,
        *generation(table),
        *forced_share(table),
        *stated_routing(table),
        *provenance(table),
    ]


def generation(table: Table) -> list[str]:
    """The lengths and definitions of a workload that generates tokens; [] for any other."""
    lengths = [_shared_count(table, entry.key) for entry in (PROMPT_TOKENS, OUTPUT_TOKENS)]
    if None in lengths:
        return []
    return [
        f"A call reads {lengths[0]} tokens and generates {lengths[1]}, greedily and with a cache: "
        "FLOPs, speed-up, memory and energy are of whole generations. TTFT: time to the first "
        "token of a batch. TPOT: time per further token of a batch. Their speed-ups are measured "
        "in alternation with dense. FLOPs, memory and energy per token: what a further token of a "
        "sample adds."
    ]


def forced_share(table: Table) -> list[str]:
    """What a share that gates are forced to run means; [] where they decide themselves."""
    share = config_block(table.found[0].record, "measure").get("force_share")
    if share is None:
        return []
    return [
        f"Gates run a stated share, {share:g}, of what they decide about, drawn at random and the "
        "same in every pass (measure.force_share): the table shows what that share "
        "costs, not what a trained gate would decide."
    ]


def stated_routing(table: Table) -> list[str]:
    """What a stated routing of experts means; [] where routers decide themselves."""
    measure = config_block(table.found[0].record, "measure")
    routing = measure.get("routing", "own")
    if routing == "own":
        return []
    meaning = {
        "balanced": "every expert gets as many tokens",
        "zipf": "the expert of rank r is drawn with probability proportional to 1 / r",
        "hot": "all tokens get the same experts",
        "recorded": f"experts are drawn with the loads recorded in {measure.get('routing_from')}",
    }
    return [
        f"Routing of experts is stated, {routing} (measure.routing): "
        f"{meaning.get(str(routing), 'not one of this version')}. How many a token gets is the "
        "gate's choice; the router runs and is not obeyed."
    ]


def _generated(table: Table) -> dict[str, int]:
    """The inputs of a generation: fewer than configured, as each one is many calls."""
    count = _shared_count(table, GENERATED_INPUTS.key)
    return {} if count is None else {"num_inputs": count}


def _shared_count(table: Table, key: str) -> int | None:
    """A count that all rows share, from the first row that has it."""
    values = (row.value(key) for row in table.rows)
    return next((round(value) for value in values if value is not None), None)


def references(table: Table) -> list[str]:
    """Chance level and known baselines, in the unit of the quality column."""
    if table.quality is None:
        return []
    levels = dict(table.quality.references)
    # Chance is the lowest bar and stands first.
    if table.quality.chance is not None:
        levels = {"chance": table.quality.chance, **levels}
    # Seeds of one task share a unit; "1" is the unit of a plain ratio and is not written.
    units = {row.cells[QUALITY.key].unit for row in table.rows if QUALITY.key in row.cells} - {"1"}
    unit = f" ({', '.join(sorted(units))})" if units else ""
    listed = ", ".join(f"{name} {number(value, digits=4)}" for name, value in levels.items())
    return [f"baselines{unit}: {listed}"] if levels else []


def provenance(table: Table) -> list[str]:
    """Software, commit and data of the trials behind a table, and the noise of their timing."""
    versions = ("condbench", "torch", "python")
    count = len(table.found)
    parts = [f"{count} trial" if count == 1 else f"{count} trials"]
    parts += [f"{name} {_or_unknown(_versions(table, name))}" for name in versions]
    parts.append(f"commit {_or_unknown(_commits(table))}")
    data = _values(table, _data_hash)  # absent in a record of before data was hashed
    if data:
        parts.append(f"data {', '.join(data)}")
    return [f"Made from {', '.join(parts)}.", *timing_noise(table), *process_spread(table)]


def timing_noise(table: Table) -> list[str]:
    """How far a model timed against itself was from 1, in one line; [] where none was timed."""
    # Above the meter's limit the number is kept: it qualifies the speed-ups of the table.
    floors = [
        f"{number(100 * floor.value, digits=2)} % at batch {size}"
        + (" (above the limit)" if floor.is_noisy else "")
        for size, floor in table.noise_floors.items()
    ]
    return [f"timing noise: identical models differed by {', '.join(floors)}"] if floors else []


def process_spread(table: Table) -> list[str]:
    """What changes between processes, per batch size; [] where each trial was timed in one."""
    found = spreads(table.found)
    if not found:
        return []
    from bench.statistics.processes import BETWEEN_SESSIONS  # scipy: only after several processes

    sizes = ", ".join(f"{number(100 * s.sd, digits=2)} % at batch {b}" for b, s in found.items())
    freedom = min(spread.df for spread in found.values())
    return [
        f"between processes a speed-up differs by {sizes} (standard deviation, pooled over the "
        f"table with {freedom} degrees of freedom), between sessions by "
        f"{number(100 * BETWEEN_SESSIONS.sd, digits=2)} % more (a study of 12 sessions of one "
        "machine): intervals and bold type count both"
    ]


def _processors(table: Table) -> list[str]:
    def name(found: Found) -> Any:
        environment = found.record.environment
        gpus = environment.get("gpus")
        # A trial on a CPU may have run in a machine with GPUs.
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
        # Ten digits identify a commit; uncommitted changes must stay visible behind them.
        return str(full)[:10] + ("-dirty" if str(full).endswith("-dirty") else "") if full else None

    return _values(table, commit)


def _data_hash(found: Found) -> Any:
    identity = found.record.provenance.get("identity")
    data = identity.get("data") if isinstance(identity, dict) else None
    return str(data)[:10] if data else None


def _values(table: Table, of: Callable[[Found], Any]) -> list[str]:
    """The distinct values among a table's trials, as text, without the missing ones."""
    values = (of(found) for found in table.found)
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _or_unknown(values: Iterable[str]) -> str:
    # Trials that differ are all named, as in "2 / 1 threads".
    return " / ".join(values) or "unknown"
