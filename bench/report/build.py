"""The report of one or more result trees: read, tabulate, write, and a text for the terminal.

    table.md  table.tex  table.csv  report.html
    speedup.png  time_parts.png  quality_cost.png  robustness.png
    map.png  map.csv  answers.md  answers.csv
    paper.md  paper.tex  paper.csv

The figures are written where there is something to draw, the map where methods were timed at
several sizes, the answers where a method stands beside dense, the last line for a paper experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.reading import paused_garbage_collection, read
from bench.records.replacing import replace_files
from bench.report.maps.cells import Map, maps_of
from bench.report.maps.render import csv as map_csv
from bench.report.maps.render import terminal as map_text
from bench.report.paper.lines import lines_of, paper_of
from bench.report.paper.render import paper_files
from bench.report.paper.render import terminal as paper_text
from bench.report.render.csv_export import csv
from bench.report.render.latex import latex
from bench.report.render.page import CAPTIONS, page
from bench.report.render.text import markdown, plain, terminal
from bench.report.tables.rows import tables
from bench.report.tables.table import Table

MAP_CSV = "map.csv"
FOLDER = "report"  # within the first folder reported on


@dataclass(frozen=True)
class Report:
    """A finished report."""

    tables: list[Table]
    paths: list[Path]  # of the files written
    text: str  # the tables for a terminal
    problems: list[str]  # one line for every record that was left out


def build(dirs: Sequence[Path], out: Path | None = None) -> Report:
    """Report on every record below `dirs`, writing into `out` (default: `dirs[0]`/report).

    Damaged, fake and superseded records are named in `problems` and left where they are.
    Raises NoRecords when there is no folder or no readable record, OSError when `out` cannot
    be written.
    """
    with paused_garbage_collection():
        reading = read(dirs)
        all_tables = tables(reading.found)
    problems = reading.problems + [line for table in all_tables for line in table.left_out]
    maps = maps_of(reading.found)
    images = _images(all_tables, maps)
    title = "condbench: " + ", ".join(sorted({f.record.labels.experiment for f in reading.found}))
    papers = lines_of(reading.found)
    folder = out or dirs[0] / FOLDER
    answered, shown = _answers(all_tables, folder)
    contents: dict[str, str | bytes] = {
        "table.md": f"# {plain(title)}\n\n{markdown(all_tables)}" + _links(images),
        "table.tex": latex(all_tables),
        "table.csv": csv(all_tables),
        **images,
        **answered,
        "report.html": page(title, all_tables, images, problems, maps, shown),
        **({MAP_CSV: map_csv(maps)} if maps else {}),
        **paper_files(papers),
    }
    # Records of a paper alone: their one table, not one for each of its models.
    only_papers = papers and all(map(paper_of, reading.found))
    text = paper_text(papers) if only_papers else terminal(all_tables)
    # A table for each size would hide what the sizes together say.
    text = map_text(maps) if maps else text
    return Report(all_tables, _write(folder, contents), text, problems)


def _images(tables: Sequence[Table], maps: Sequence[Map]) -> dict[str, bytes]:
    # matplotlib takes half a second to import
    from bench.report.figures import figures
    from bench.report.figures.maps import map_figure
    from bench.report.figures.time_parts import time_parts_figure

    drawn = {
        "map.png": map_figure(maps),
        "speedup.png": figures.speedup_figure(tables),
        "time_parts.png": time_parts_figure(tables),
        "quality_cost.png": figures.quality_figure(tables),
        "robustness.png": figures.robustness_figure(tables),
    }
    return {name: image for name, image in drawn.items() if image is not None}


def _answers(tables: Sequence[Table], folder: Path) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The files of "Does it pay?" and its part of the page; none where nothing is asked."""
    from bench.report.claims.findings import answers  # scipy takes a third of a second to import
    from bench.report.claims.render import answer_files, page_part

    found = answers(tables)
    return answer_files(found, folder), page_part(found, folder) if found else None


def _links(images: dict[str, bytes]) -> str:
    return "".join(f"\n![{CAPTIONS[name]}]({name})\n" for name in images)


def _write(folder: Path, contents: dict[str, str | bytes]) -> list[Path]:
    """Replace the whole report: where the disk is full, the earlier one stays."""
    folder.mkdir(parents=True, exist_ok=True)
    # A name from the command line may hold half of a surrogate pair, which has no UTF-8.
    encoded: dict[str, bytes | None] = {
        name: content.encode("utf-8", "replace") if isinstance(content, str) else content
        for name, content in contents.items()
    }
    # A figure, map or answer of an earlier report would be stale.
    some = {*CAPTIONS, MAP_CSV, "answers.md", "answers.csv"}
    stale: dict[str, bytes | None] = dict.fromkeys(some - contents.keys())
    return replace_files(folder, encoded | stale)
