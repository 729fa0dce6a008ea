"""The lines of a paper experiment as Markdown, LaTeX, CSV and terminal text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from bench.papers.verdict import Verdict
from bench.records.redaction import printable_lines
from bench.report.paper.lines import CLOSED, META, Line
from bench.report.render.csv_export import neutral
from bench.report.render.latex import PREAMBLE, escape
from bench.report.render.text import plain

Lines = Mapping[str, Sequence[Line]]
COLUMNS = ("model", "quantity", "published", "counted", "difference", "verdict")
MARKS = {META: "m", CLOSED: "c"}  # behind a count that was not executed
MARK_NOTES = {
    META: "m: counted on the meta device, as the model does not fit into memory",
    CLOSED: "c: closed form, no model was built",
}


def paper_files(papers: Lines) -> dict[str, str]:
    """paper.md, paper.tex and paper.csv by name; {} without a paper."""
    if not papers:
        return {}
    return {"paper.md": markdown(papers), "paper.tex": latex(papers), "paper.csv": csv(papers)}


def summary(lines: Sequence[Line]) -> str:
    """How many rows there are, and how many of each verdict."""
    counts = Counter(line.verdict for line in lines)
    parts = ", ".join(f"{counts[each]} {each}" for each in Verdict if counts[each])
    return f"{len(lines)} published numbers: {parts}"


def terminal(papers: Lines) -> str:
    """One table per paper for a terminal, and the reasons below."""
    text = "\n\n".join(
        "\n".join([f"paper {name}: {summary(lines)}", "", _grid(lines, "simple"), *_notes(lines)])
        for name, lines in papers.items()
    )
    return printable_lines(text)  # names and reasons of records, which a terminal might obey


def markdown(papers: Lines) -> str:
    """One section per paper."""
    parts = ["# Published numbers beside counts of this repository"]
    for name, lines in papers.items():
        notes = "\n".join(f"- {plain(note)}" for note in [*_notes(lines), *_conventions(lines)])
        parts += [f"## {plain(name)}", f"{summary(lines)}.", _grid(lines, "github"), notes]
    return "\n\n".join(parts) + "\n"


def latex(papers: Lines) -> str:
    """One table over both columns of a two-column article per paper."""
    return "\n\n".join([PREAMBLE, *(_latex(name, lines) for name, lines in papers.items())]) + "\n"


def csv(papers: Lines) -> str:
    """One line per row of the data file, with the count and the verdict behind its columns."""
    records = [
        {
            **asdict(line.row),
            "counted_value": "" if line.counted is None else _digits(line),
            "difference_percent": "" if line.percent is None else f"{line.percent:+.3f}",
            "how": line.how,
            "verdict": str(line.verdict),
            "reason": line.reason,
        }
        for lines in papers.values()
        for line in lines
    ]
    # Text of the data file, too, must not run in a spreadsheet.
    frame = pd.DataFrame(records).map(neutral)
    return frame.to_csv(index=False, lineterminator="\n")


def cells(line: Line) -> list[str]:
    """The texts of a line, in the order of COLUMNS."""
    mark = f" ({MARKS[line.how]})" if line.how in MARKS and line.counted is not None else ""
    counted = "-" if line.counted is None else _digits(line) + mark
    percent = "-" if line.percent is None else f"{line.percent:+.2f} %"
    published = f"{_grouped(line.row.published)} {line.row.unit}"
    return [line.row.model, line.row.quantity, published, counted, percent, str(line.verdict)]


def _digits(line: Line) -> str:
    """The count in the published unit: whole where it is one of a thing, else five digits."""
    assert line.counted is not None
    if line.counted.denominator == 1 and line.row.scale == 1:
        return f"{line.counted.numerator:,}"
    return f"{float(line.counted):.5g}"


def _grouped(published: str) -> str:
    return f"{int(published):,}" if published.isdigit() else published


def _grid(lines: Sequence[Line], style: str) -> str:
    clean = plain if style == "github" else str
    frame = pd.DataFrame([[clean(each) for each in cells(line)] for line in lines], columns=COLUMNS)
    # disable_numparse: zeros at the end of a published number are digits of it.
    align = ["left", "left", "right", "right", "right", "left"]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align, tablefmt=style)


def _notes(lines: Sequence[Line]) -> list[str]:
    """What the marks mean, and why each row that is not reproduced is not."""
    used = {line.how for line in lines if line.counted is not None}
    reasons: dict[str, list[str]] = {}
    for line in lines:
        if not line.verdict.reproduced:
            about = f"{line.verdict}: {line.reason or 'no reason is known'}"
            reasons.setdefault(about, []).append(f"{line.row.model}, {line.row.quantity}")
    return [
        *(note for how, note in MARK_NOTES.items() if how in used),
        *(f"{about} ({'; '.join(models)})" for about, models in reasons.items()),
    ]


def _conventions(lines: Sequence[Line]) -> list[str]:
    """How each source counts, what was added for it, and where the number stands."""
    about: dict[str, list[str]] = {}
    for line in lines:
        row = line.row
        parts = [row.convention, row.input and f"input {row.input}", row.surcharge, row.source]
        about.setdefault("; ".join(filter(None, parts)), []).append(row.id)
    return [f"{', '.join(ids)}: {text}" for text, ids in about.items()]


def _latex(name: str, lines: Sequence[Line]) -> str:
    frame = pd.DataFrame([[escape(each) for each in cells(line)] for line in lines])
    frame.columns = pd.Index(COLUMNS)
    tabular = frame.style.hide(axis="index").to_latex(hrules=True, column_format="llrrrl")
    notes = [rf"{escape(note)}.\par" for note in _notes(lines)]
    return "\n".join(
        [
            r"\begin{table*}[tp]",
            r"\centering",
            rf"\caption{{{escape(f'{name}. {summary(lines)}')}.}}",
            # Narrower tables keep their size: only wide ones are scaled.
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{\scriptsize",
            tabular.rstrip() + "}",
            r"\par\smallskip",
            r"\begin{minipage}{\textwidth}\scriptsize\raggedright",
            *notes,
            r"\end{minipage}",
            r"\end{table*}",
        ]
    )
