"""The answers as Markdown and CSV, and as what the HTML page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.report.claims.findings import Answers, Finding, overall, summary
from bench.report.claims.outcome import Claim
from bench.report.claims.sheet import Line, Link, Mark, Matrix, lines, matrix, record_path
from bench.report.render.csv_export import neutral, table_columns
from bench.report.render.text import plain
from bench.report.tables.legend import conditions

TITLE = "Does it pay?"
HEAD = ("claim", "batch", "method", "answer", "number", "95 % interval", "why", "records")
GRIDS = (("gain", "What is gained"), ("cost", "What it costs"))
LEGEND = (
    "Every claim but those of better quality, robustness and anomalies holds at equal quality "
    "only: the loss against dense is below the tolerance with 95 % confidence.",
    "x: dense / method, above 1 the method needs less; of costs method / dense. Exact: a count "
    "without an error. ?: undecided; -: not measured. Bold or green: good news.",
    "Each method stands at its chosen operating point; nothing is interpolated between points.",
)


def answer_files(found: Sequence[Answers], folder: Path) -> dict[str, str]:
    """answers.md and answers.csv by name, with links from `folder`; {} where nothing is asked."""
    if not found:
        return {}
    return {"answers.md": markdown(found, folder), "answers.csv": csv(found, folder)}


def markdown(found: Sequence[Answers], folder: Path) -> str:
    """Summary and matrices of every table, then every claim with number, interval and record."""
    parts = [f"# {TITLE}", plain(overall(found))]
    for each in found:
        parts += [f"## {plain(each.table.title)}", plain(conditions(each.table))]
        parts.append(_listed(summary(each)))
        for kind, title in GRIDS:
            grid = matrix(each, kind)
            parts += [f"### {title}", _grid(grid)] if grid.heads else []
    parts += ["## What each claim means", _listed(rules(found))]
    labels: dict[str, str] = {}  # address -> its short name, as links repeat
    for each in found:
        title = f"## Every claim: {plain(each.table.title)}"
        parts += [title, _details(lines(each, folder), labels)]
    parts.append("\n".join(f"[{label}]: {address}" for address, label in labels.items()))
    return "\n\n".join(filter(None, parts)) + "\n"


def rules(found: Sequence[Answers]) -> list[str]:
    """What "yes" means, for every claim that was asked, and how to read numbers."""
    asked: dict[Claim, None] = dict.fromkeys(f.claim for each in found for f in each.findings)
    return [*(f"{claim.title}: {claim.rule}" for claim in asked), *LEGEND]


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def _grid(grid: Matrix) -> str:
    rows = [
        [plain(name), *(" / ".join(filter(None, map(_cell, marks))) for marks in cells)]
        for name, cells in grid.lines
    ]
    heads = [plain(f"{title}, {batches}" if batches else title) for title, batches in grid.heads]
    return _table(["method", *heads], rows, ["left"] + ["right"] * len(heads))


def _cell(mark: Mark) -> str:
    answer = f"**{mark.answer}**" if mark.tone == "better" else mark.answer
    return " ".join(filter(None, (answer, plain(mark.number))))


def _details(found: Sequence[Line], labels: dict[str, str]) -> str:
    rows = [
        [
            *map(plain, (each.claim, each.batch, each.method, each.answer)),
            *map(plain, (each.number, each.interval, each.note)),
            ", ".join(f"[{link.text}][{_label(link, labels)}]" for link in each.links),
        ]
        for each in found
    ]
    # Not padded to equal width: hundreds of lines, one of which has a long reason.
    lines = [list(HEAD), ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _label(link: Link, labels: dict[str, str]) -> str:
    return labels.setdefault(link.address, f"r{len(labels) + 1}")


def _table(head: list[str], rows: list[list[str]], align: list[str]) -> str:
    frame = pd.DataFrame(rows, columns=head)
    # disable_numparse: zeros at the end of a number are digits of it.
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align)


def csv(found: Sequence[Answers], folder: Path) -> str:
    """One line per claim, method, batch size and table; numbers in full."""
    records = [_record(each, finding, folder) for each in found for finding in each.findings]
    frame = pd.DataFrame(records).map(neutral)
    return frame.to_csv(index=False, lineterminator="\n")


def _record(found: Answers, finding: Finding, folder: Path) -> dict[str, Any]:
    row, outcome = finding.row, finding.outcome
    return {
        **table_columns(found.table),
        "method": row.method,
        "variant": row.variant,
        "point": row.settings,
        "choice": row.choice,
        "seeds": " ".join(map(str, row.seeds)),
        "claim": finding.claim.key,
        "kind": finding.claim.kind,
        "batch_size": "" if finding.batch_size is None else finding.batch_size,
        "answer": str(outcome.answer),
        "value": outcome.value,
        "low": outcome.low,
        "high": outcome.high,
        "unit": outcome.unit,
        "baseline": outcome.baseline,
        "note": outcome.note,
        "records": " ".join(record_path(each, folder) for each in finding.trials),
    }


def page_part(found: Sequence[Answers], folder: Path) -> dict[str, Any]:
    """What answers.html shows."""
    return {
        "title": TITLE,
        "head": HEAD,
        "overall": overall(found),
        "rules": rules(found),
        "tables": [
            {
                "title": each.table.title,
                "summary": summary(each),
                "grids": [(title, matrix(each, kind)) for kind, title in GRIDS],
                "lines": lines(each, folder),
            }
            for each in found
        ],
    }
