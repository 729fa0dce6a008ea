"""The three files of a paper report: Markdown, LaTeX for two columns, CSV."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from bench.papers.rows import Row
from bench.papers.verdict import Verdict
from bench.report.paper.lines import CLOSED, EXECUTED, Line
from bench.report.paper.render import cells, paper_files, summary

ROW = Row(
    id="a-params",
    paper="p",
    model="A_1 & B",
    quantity="parameters",
    published="25557032",
    unit="params",
    convention="all",
    input="3x8x8",
    trial="backbone=resnet8",
    point="",
    counted="params",
    surcharge="",
    digits="rounded",
    remark="",
    evidence="read",
    source="=a table",
)
COST = replace(ROW, id="a-cost", quantity="cost", published="1.80", unit="GMAC")
LINES = [
    Line(ROW, Verdict.REPRODUCED, Fraction(25_557_032), 0.0, EXECUTED),
    Line(COST, Verdict.OFF, Fraction("1.9234567"), 6.8587, CLOSED, "norms are counted"),
    Line(replace(COST, id="b"), Verdict.NOT_COMPARABLE, reason="no method rigl"),
]
DOCUMENT = (
    "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}"
    "\\begin{document}text\\input{paper.tex}\\end{document}\n"
)


def test_cells_show_digits_as_published() -> None:
    """Whole counts in full, others with five digits; zeros at the end of a number stay."""
    assert [cells(line)[2:] for line in LINES] == [
        ["25,557,032 params", "25,557,032", "+0.00 %", "REPRODUCED"],
        ["1.80 GMAC", "1.9235 (c)", "+6.86 %", "OFF"],
        ["1.80 GMAC", "-", "-", "NOT COMPARABLE"],
    ]


def test_the_summary_counts_verdicts() -> None:
    """Verdicts that no row has are left out."""
    expected = "3 published numbers: 1 REPRODUCED, 1 OFF, 1 NOT COMPARABLE"
    assert summary(LINES) == expected


def test_a_report_of_a_paper_has_three_files() -> None:
    """Every row in each, the reasons below the tables, the source in Markdown and CSV."""
    files = paper_files({"p": LINES})
    assert sorted(files) == ["paper.csv", "paper.md", "paper.tex"]
    assert paper_files({}) == {}
    assert "OFF: norms are counted" in files["paper.md"]
    assert "OFF: norms are counted" in files["paper.tex"]
    assert r"A\_1 \& B & parameters & 25,557,032 params" in files["paper.tex"]
    rows = list(csv.DictReader(io.StringIO(files["paper.csv"])))
    assert [row["verdict"] for row in rows] == ["REPRODUCED", "OFF", "NOT COMPARABLE"]
    assert rows[0]["source"] == "'=a table"  # no formula in a spreadsheet
    assert rows[0]["published"] == "25557032"


@pytest.mark.soak
def test_the_table_compiles_in_two_columns(tmp_path: Path) -> None:
    """A plain two-column article reads it without editing."""
    if shutil.which("pdflatex") is None:
        pytest.fail("pdflatex is needed: apt-get install texlive-latex-recommended")
    (tmp_path / "paper.tex").write_text(paper_files({"p": LINES})["paper.tex"], encoding="utf-8")
    (tmp_path / "main.tex").write_text(DOCUMENT, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "Overfull" not in ran.stdout
