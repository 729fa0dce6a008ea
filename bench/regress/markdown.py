"""A verdict as one Markdown body: what changed, by how much, probable causes, commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.records.redaction import NO_WIDTH, printable, unlinked
from bench.regress.gate import Judgement
from bench.regress.verdict import Outcome, Row, Verdict
from bench.report.tables.numbers import number
from bench.statistics import LEVEL, Interval

TITLES: dict[Outcome, str] = {
    "ok": "no regression",
    "regressed": "regressed",
    "inconclusive": "inconclusive (not green)",
    "void": "void: a control is not equal, so times and energy do not count",
    "not comparable": "not comparable",
}
# What needs attention first; equal rows are folded away.
ORDER: tuple[Judgement, ...] = ("regressed", "inconclusive", "improved", "equal")
MARKS: dict[Judgement, str] = {"regressed": "**regressed**"}
# GitHub turns @name and #1 into mentions wherever they stand in text, escaped or not. A space of no
# width behind the character prevents that.
ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "\\|[]!*~"}
    | {"&": "&amp;", "<": "&lt;", "`": "'"}
    | {character: f"{character}{NO_WIDTH}" for character in "@#"}
)


def body(verdict: Verdict) -> str:
    """The whole body."""
    return "\n".join([*_head(verdict), *_sections(verdict), *_foot(verdict)]) + "\n"


def _head(verdict: Verdict) -> Iterator[str]:
    counts = [f"{len(rows)} {name}" for name in ORDER if (rows := verdict.rows_with(name))]
    yield f"## {TITLES[verdict.outcome]}"
    yield ""
    sides = f"{_escape(verdict.candidate)} against {_escape(verdict.baseline)}"
    yield f"{sides} on {_escape(verdict.hardware)}"
    yield f"- {len(verdict.rows)} metrics: {', '.join(counts) or 'none judged'}"
    if verdict.rows:
        yield _error_bound(verdict)
    # Regressed without controls comes from a crash or a quality: the times prove nothing.
    if verdict.outcome == "regressed" and not verdict.is_controlled:
        yield "- a control is not equal: the times and energy below do not count"


def _error_bound(verdict: Verdict) -> str:
    error = number(100 * verdict.family_wise_error, 2)
    rerun = "confirmed by a rerun" if verdict.confirmed else "not confirmed by a rerun"
    if verdict.shared_baseline:
        rerun += " against the same baseline run, which does not lower the bound"
    return (
        f"- chance of any false regression in this family: at most {error} % where every true "
        f"change is within its margin ({rerun}), if the {LEVEL:.0%} intervals keep their level and "
        "two processes of the same code are equally fast; far less where nothing changed "
        "(`condbench nightly --simulate`)"
    )


def _sections(verdict: Verdict) -> Iterator[str]:
    if verdict.differences:
        yield from _list("Not comparable because of", verdict.differences)
    changed = [row for name in ORDER[:3] for row in verdict.rows_with(name)]
    if changed:
        yield from ("", "### What changed", "", *_table(changed), *_causes(changed))
    controls = [*verdict.controls, *([verdict.canary] if verdict.canary else [])]
    if controls:
        yield from ("", "### Controls: the same code on both sides", "", *_table(controls))
    if verdict.changes:
        # Counts of trained models depend on the training: only golden trials gate them.
        yield from _list("Counts that changed (not gated after training)", verdict.changes)
    if same := verdict.rows_with("equal"):
        yield from ("", f"<details><summary>{len(same)} equal</summary>", "")
        yield from (*_table(same), "", "</details>")


def _foot(verdict: Verdict) -> Iterator[str]:
    if verdict.notes:
        yield from _list("Notes", verdict.notes)
    if verdict.commands:
        # A name may hold a new line: it must not close the fence.
        commands = [" ".join(printable(command).split()) for command in verdict.commands]
        yield from ("", "### Reproduce", "", "```sh", *commands, "```")


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield from ("", f"### {title}", "", *(f"- {_escape(line)}" for line in lines))


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| model | metric | cost, candidate / baseline | rounds | verdict |"
    yield "|---|---|---|---|---|"
    for row in rows:
        rounds = str(row.ratio.num_values or "-") if row.ratio else "-"
        verdict = MARKS.get(row.judgement, row.judgement)
        verdict += f" ({_escape(row.reason)})" if row.reason else ""
        cells = (_escape(row.model), _escape(row.metric), _numbers(row), rounds, verdict)
        yield f"| {' | '.join(cells)} |"


def _numbers(row: Row) -> str:
    if row.ratio is None or row.ratio.value is None:
        return "-"
    text = percent_change(row.ratio)
    if row.baseline is not None and row.candidate is not None:
        # Absolute values beside the ratio, because 5 % of 1 ms and of 1 s differ for the reader.
        text += f" ({number(row.baseline)} -> {number(row.candidate)} {_escape(row.unit)})"
    return text + (f"; rerun {percent_change(row.rerun)}" if row.rerun else "")


def percent_change(ratio: Interval) -> str:
    """ "+7.9 % [+7.1, +8.6]" of a cost ratio."""
    value, low, high = (
        None if each is None else f"{100 * (each - 1):+.1f}"
        for each in (ratio.value, ratio.low, ratio.high)
    )
    return f"{value} %" + (f" [{low}, {high}]" if low is not None and high is not None else "")


def _causes(rows: Sequence[Row]) -> Iterator[str]:
    """Each cause once, with the metrics that it explains."""
    # One change of code usually moves several metrics.
    names_by_cause: dict[str, list[str]] = {}
    for row in rows:
        if row.cause:
            names_by_cause.setdefault(row.cause, []).append(row.name)
    if names_by_cause:
        yield from ("", "Probable cause:", "")
    for cause, names in names_by_cause.items():
        yield f"- {_escape(cause)} ({_escape(', '.join(names))})"


def _escape(text: str) -> str:
    """Text from records and messages, without cells, tags, links, mentions or lines of its own."""
    # Joined first: a line break would end the table's row, whatever is escaped.
    return unlinked(" ".join(printable(text).split()).translate(ESCAPES))
