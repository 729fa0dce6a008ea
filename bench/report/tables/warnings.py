"""Warnings of a trial's diagnostics: collapsed gates, and branches that nothing is routed to."""

from __future__ import annotations

from collections import defaultdict

from bench.records.record import Record
from bench.report.tables.table import Table, trial_name
from bench.report.tables.untrusted import entry_of, listed, names_of

PREFIX = "WARNING: "
# Keys of the record's diagnostics["routing"], each a list of names.
KINDS = {"collapsed": "collapsed gate", "dead_branches": "dead branch"}
PLURALS = {"collapsed gate": "collapsed gates", "dead branch": "dead branches"}


def warnings(record: Record) -> dict[str, str]:
    """The names behind each warning: {"2 dead branches": "moe.0.3, moe.0.7"}; {} without any."""
    routing = entry_of(record.diagnostics.get("routing"))
    found = ((word, names_of(routing.get(key))) for key, word in KINDS.items())
    return {_counted(word, len(names)): listed(names) for word, names in found if names}


def warning_lines(table: Table) -> list[str]:
    """One line per method and warning, for below the table; seeds that share one share a line."""
    seeds: dict[tuple[str, str], list[int]] = defaultdict(list)
    for found in table.found:
        for title, names in warnings(found.record).items():
            # The names belong to the key: seeds with other dead branches get another line.
            key = (trial_name(found.record.labels), f"{title}: {names}")
            seeds[key].append(found.record.labels.seed)
    return [
        f"{PREFIX}{name} ({'seed' if len(of) == 1 else 'seeds'} {', '.join(map(str, of))}): {text}"
        for (name, text), of in seeds.items()
    ]


def warnings_by_row(table: Table) -> dict[str, list[str]]:
    """The warnings of each method by the name of its trials: {"moe": ["2 dead branches"]}."""
    # Seeds may differ in their counts: each count is named once.
    rows: dict[str, dict[str, None]] = defaultdict(dict)
    for found in table.found:
        rows[trial_name(found.record.labels)] |= dict.fromkeys(warnings(found.record))
    return {name: list(titles) for name, titles in rows.items()}


def _counted(word: str, count: int) -> str:
    return f"{count} {word if count == 1 else PLURALS[word]}"
