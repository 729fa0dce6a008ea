"""The answers of a table as text without markup: a matrix of answers, and one line per claim.

`render` and the HTML page add the markup of their format.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench.records.reading import Found
from bench.records.record import RECORD_NAME
from bench.report.claims.findings import Answers, Finding
from bench.report.claims.outcome import Answer, Claim
from bench.report.tables.column import headline_batches

SIGNS = {Answer.UNDECIDED: "?", Answer.NOT_MEASURED: "-"}  # in a matrix; yes and no in words
Head = tuple[Claim, int | None]


@dataclass(frozen=True)
class Mark:
    """One cell of a matrix; `tone` is "better" for good news, "worse" for bad, else ""."""

    answer: str
    number: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Matrix:
    """Methods by claims; claims that nothing answers have no column."""

    heads: list[tuple[str, str]]  # title of a claim, and its batch sizes: "batch 1 / 64"
    lines: list[tuple[str, list[list[Mark]]]]  # per method and claim, one mark per batch size


@dataclass(frozen=True)
class Link:
    """A record: its seed, and the address relative to the folder of the report."""

    text: str
    address: str  # a path without what Markdown or HTML would read as markup


@dataclass(frozen=True)
class Line:
    """One claim in full; of several methods where all lack the number for one reason."""

    claim: str
    batch: str
    method: str
    answer: str
    number: str
    interval: str
    note: str
    links: tuple[Link, ...]


def matrix(found: Answers, kind: str) -> Matrix:
    """The matrix of gains or of costs, at the headline batch sizes."""
    at = {(f.row.name, f.claim, f.batch_size): f for f in found.findings}
    sizes: dict[Claim, dict[int | None, None]] = {}  # of the claims that are answered at all
    # Deadlines are those of single inputs, whichever sizes were timed.
    shown = {None, 1, *headline_batches(found.table)}
    for finding in found.findings:
        answered = finding.outcome.answer is not Answer.NOT_MEASURED
        if finding.claim.kind == kind and finding.batch_size in shown and answered:
            sizes.setdefault(finding.claim, {})[finding.batch_size] = None
    columns = [claim for claim in dict.fromkeys(f.claim for f in found.findings) if claim in sizes]
    lines = [
        (row.name, [[_mark(at.get((row.name, c, size))) for size in sizes[c]] for c in columns])
        for row in found.rows
    ]
    return Matrix([(claim.title, _batches(sizes[claim])) for claim in columns], lines)


def _batches(sizes: Iterable[int | None]) -> str:
    known = [str(size) for size in sizes if size is not None]
    return f"batch {' / '.join(known)}" if known else ""


def _mark(finding: Finding | None) -> Mark:
    if finding is None:  # a dense model has no routing to ask about
        return Mark("")
    outcome = finding.outcome
    good, bad = ("better", "worse") if finding.claim.kind == "gain" else ("worse", "better")
    tone = {Answer.YES: good, Answer.NO: bad}.get(outcome.answer, "")
    return Mark(SIGNS.get(outcome.answer, str(outcome.answer)), outcome.number, tone)


def lines(found: Answers, folder: Path) -> list[Line]:
    """One line per claim, batch size and method, with links from a report in `folder`."""
    return [
        line for group in _groups(found.findings) for line in _lines(group, len(found.rows), folder)
    ]


def _groups(findings: Sequence[Finding]) -> list[list[Finding]]:
    """By claim and batch size, in the order of the claims."""
    groups: dict[Head, list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.claim, finding.batch_size), []).append(finding)
    return list(groups.values())


def _lines(group: Sequence[Finding], num_rows: int, folder: Path) -> Iterator[Line]:
    missing: dict[str, list[str]] = {}
    for finding in group:
        if finding.outcome.answer is Answer.NOT_MEASURED:
            missing.setdefault(finding.outcome.note, []).append(finding.row.method_name)
        else:
            yield _line(finding, finding.row.name, links(finding, folder))
    for finding in group:
        names = missing.pop(finding.outcome.note, None)
        if names:  # the first of those that share a reason stands for all
            yield _line(finding, "all" if len(names) == num_rows else ", ".join(names), ())


def _line(finding: Finding, method: str, records: tuple[Link, ...]) -> Line:
    outcome = finding.outcome
    batch = "" if finding.batch_size is None else str(finding.batch_size)
    answer = str(outcome.answer)
    where = (finding.claim.title, batch, method, answer, outcome.text, outcome.interval)
    return Line(*where, outcome.note, records)


def links(finding: Finding, folder: Path) -> tuple[Link, ...]:
    """The records behind a finding."""
    return tuple(
        Link(f"seed {found.record.labels.seed}", quote(record_path(found, folder)))
        for found in finding.trials
    )


def record_path(found: Found, folder: Path) -> str:
    """The path of a trial's record from `folder`, with slashes."""
    return Path(os.path.relpath(found.folder / RECORD_NAME, folder)).as_posix()
