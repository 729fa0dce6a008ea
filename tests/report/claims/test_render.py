"""answers.md, answers.csv and the section of the page."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bench.records.record import Record
from bench.report import build


@pytest.fixture
def root(make: Any, tree: Any) -> Path:
    """A tree with dense and one method, whose name needs quoting in a link."""
    where = {"variant": "k=(1)"}
    folder: Path = tree(make(), make("moe", share=0.5, speedup=1.8, labels=where))
    return folder


def test_every_line_of_the_csv_has_its_record(root: Path) -> None:
    """Relative to the report, also where it is written elsewhere."""
    for out in (None, root / "far" / "away"):
        build([root], out)
        folder = out or root / "report"
        rows = list(csv.DictReader(io.StringIO((folder / "answers.csv").read_text())))
        assert {row["method"] for row in rows} == {"moe"}
        for row in rows:
            Record.model_validate_json((folder / row["records"]).read_text())
        (faster,) = [r for r in rows if (r["claim"], r["batch_size"]) == ("faster", "64")]
        assert (faster["answer"], float(faster["value"])) == ("yes", 1.8)
        assert [float(faster[key]) for key in ("low", "high")] == pytest.approx([1.76, 1.84])
        assert all(row["note"] for row in rows if row["answer"] == "not measured")


def test_the_markdown_answers_first_and_links_records(root: Path) -> None:
    """Summary, matrices, meanings, then every claim; a link is defined once and exists."""
    build([root])
    text = (root / "report" / "answers.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == [
        "# Does it pay?",
        "## digits, transformer",
        "### What is gained",
        "### What it costs",
        "## What each claim means",
        "## Every claim: digits, transformer",
    ]
    assert "- Faster than dense at equal quality: moe,k=(1) (batch 1, 64)." in text
    assert "**yes** 1.62x / **yes** 1.80x" in text
    (address,) = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("[r")]
    assert (root / "report" / unquote(address)).is_file()
    assert " " not in address
    assert "(" not in address


def test_methods_without_a_number_for_one_reason_share_a_line(make: Any, tree: Any) -> None:
    """Two methods without a p99."""
    root = tree(make(), make("moe", speedup=1.8), make("topk", speedup=1.8))
    build([root])
    lines = (root / "report" / "answers.md").read_text().splitlines()
    (line,) = [each for each in lines if each.startswith("| real time")]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["1", "all", "not measured"]


def test_the_page_has_the_same_answers(root: Path) -> None:
    """The section stands above the tables; links go to records."""
    build([root])
    html = (root / "report" / "report.html").read_text()
    assert html.index("Does it pay?") < html.index("digits, transformer</h2>")
    assert "Faster than dense at equal quality: moe,k=(1) (batch 1, 64)." in html
    assert 'href="../demo/' in html


def test_answers_of_an_earlier_report_are_removed(make: Any, tree: Any) -> None:
    """Dense alone is asked nothing."""
    root = tree(make())
    (root / "report").mkdir()
    for name in ("answers.md", "answers.csv"):
        (root / "report" / name).write_text("old")
    build([root])
    assert not list((root / "report").glob("answers.*"))
