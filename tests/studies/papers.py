"""Every published row, counted: verdicts by paper, for docs/explanation/papers.md.

    python -m tests.studies.papers            count, print the table, compare it with the page
    python -m tests.studies.papers --write    write it into the page

Runs every experiment in conf/experiment/paper (`make studies`); records that are there are used
again. The exit code is 1 where a trial failed or the page has another table.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.papers.rows import read_rows
from bench.papers.verdict import Verdict
from bench.records.reading import read
from bench.report.paper.lines import Line, compare_rows
from bench.run import run
from tests.studies.pages import split_page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "papers.md"
EXPERIMENTS = ROOT / "conf" / "experiment" / "paper"
RESULTS = ROOT / "build" / "papers"
BEGIN, END = "<!-- verdicts -->\n", "<!-- end of verdicts -->"


def papers() -> list[str]:
    """The papers of the data file, in its order."""
    return list(dict.fromkeys(row.paper for row in read_rows()))


def table(lines: Sequence[Line]) -> Iterator[str]:
    """How many rows of each paper have which verdict, and each row that is not reproduced."""
    yield f"| paper | {' | '.join(Verdict)} | rows |"
    yield f"|---{'|---:' * (len(Verdict) + 1)}|"
    for paper in papers():
        yield _counts(f"`{paper}`", [line for line in lines if line.row.paper == paper])
    yield _counts("all", lines)
    yield ""
    yield "| row | published | counted | verdict | reason |"
    yield "|---|---|---|---|---|"
    for line in lines:
        if not line.verdict.reproduced:
            row = line.row
            counted = "-" if line.counted is None else f"{float(line.counted):.5g}"
            percent = "" if line.percent is None else f" ({line.percent:+.2f} %)"
            yield (
                f"| {row.model}, {row.quantity} | {row.published} {row.unit} | {counted}{percent} "
                f"| {line.verdict} | {line.reason} |"
            )


def _counts(name: str, lines: Sequence[Line]) -> str:
    counts = Counter(line.verdict for line in lines)
    numbers = " | ".join(str(counts[each]) for each in Verdict)
    return f"| {name} | {numbers} | {len(lines)} |"


def main() -> int:
    """Count, print, and compare with the page or write it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.papers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="rewrite the page's table")
    write = parser.parse_args().write
    names = ",".join(f"paper/{path.stem}" for path in sorted(EXPERIMENTS.glob("*.yaml")))
    arguments = [f"experiment={names}", f"results={RESULTS}", "wandb.mode=disabled"]
    failed = run(arguments, plan_only=False)
    found = read([RESULTS]).found
    lines = [line for paper in papers() for line in compare_rows(paper, found)]
    made = "\n".join(table(lines)) + "\n"
    print(made)
    before, inside, after = split_page(PAGE, BEGIN, END)
    if write:
        PAGE.write_text(before + made + after, encoding="utf-8")
    elif inside != made:
        print(f"{PAGE} has another table: run this with --write")
        return 1
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
