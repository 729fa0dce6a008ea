"""LaTeX: booktabs, escaped text, and a file that compiles for every record."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import Metric
from bench.report.render.latex import escape, latex

HOSTILE = '\\input{/etc/passwd} $x$ 50% #1 a_b a&b {x} ~ ^ <b> "q" [z] * | \u00b5 \u4e2d \x07 \\\\'
DOCUMENT = (
    "\\documentclass{article}\\usepackage{booktabs,graphicx}"
    "\\begin{document}\\input{table.tex}\\end{document}\n"
)


def test_special_characters_are_escaped():
    """Each of LaTeX's special characters has its escape; others become plain ASCII."""
    assert escape("a_b & 50% of $1 #2") == r"a\_b \& 50\% of \$1 \#2"
    assert escape("\\input{x}") == r"\textbackslash{}input\{x\}"
    assert escape("\u00e9 \u00b5 \u4e2d") == "e ? ?"


@given(st.text())
def test_escaped_text_has_no_active_character(text: str):
    """Behind every backslash stands an escape of ours, and no other special character is left."""
    left = escape(text)
    for known in (
        *("\\textbackslash{}", "\\textasciitilde{}", "\\textasciicircum{}", "$<$", "$>$", "$|$"),
        *("{[}", "{]}", "{*}", "$\\pm$", "$\\uparrow$", "$\\downarrow$"),
        *("\\&", "\\%", "\\$", "\\#", "\\_", "\\{", "\\}"),
    ):
        left = left.replace(known, "")
    assert not set(left) & set("\\{}$&#^_~%[]*")
    assert left.isascii()


def test_the_table_has_booktabs_rules_and_one_line_per_row(make, tabulated):
    """Header, rule, and a line for each of two methods and one operating point."""
    points = [{"settings": {"k": k}, "metrics": {}} for k in (1, 2)]
    lines = latex(tabulated(make(), make("top_k", points=points))).splitlines()
    start, end = lines.index(r"\midrule"), lines.index(r"\bottomrule")
    rows = lines[start + 1 : end]
    assert [row.split(" & ")[0] for row in rows] == ["dense", r"top\_k @ k 1", r"\quad @ k 2"]
    assert all(row.endswith(r" \\") for row in rows)
    assert len({row.count("&") for row in rows}) == 1


def test_no_name_is_an_argument_of_the_line_above(make, tabulated):
    """A row that begins with a star or a bracket would otherwise lose it to LaTeX's line break."""
    text = latex(tabulated(make(), make("*bold"), make("[2cm]")))
    for name in ("{*}bold & ", "{[}2cm{]} & "):
        assert f"\\\\\n{name}" in text


def test_header_words_are_escaped_and_equal_ones_stay_apart(make, tabulated):
    """A unit out of a record is no command, and two columns of batch 1 are not merged."""
    hostile = {"infer/quality": Metric(value=0.5, unit=HOSTILE)}
    text = latex(tabulated(make(changed=hostile)))
    head = text.partition("\\toprule")[2].partition("\\midrule")[0]
    assert "multicolumn" not in head
    assert head.count("batch 64") == 4  # speed-up, verdict, realised, memory
    left = head.replace("\\textbackslash{}", "")
    assert "\\input" not in left
    assert "\\%" in left


def test_intervals_ties_and_gains_look_different(make, tabulated):
    """A gain is bold with its bounds as indices; a tie has the word."""
    text = latex(tabulated(make("fast", speedup=1.8), make("slight", speedup=1.02)))
    assert r"\textbf{1.80}$_{1.76}^{1.84}$" in text
    assert r"1.02$_{0.980}^{1.06}$ {\scriptsize tie}" in text


@pytest.mark.soak
def test_any_table_compiles(make, tabulated, tmp_path: Path):
    """pdflatex takes hostile names, reasons and settings without an error, and makes a page."""
    if shutil.which("pdflatex") is None:
        pytest.fail("pdflatex is needed: apt-get install texlive-latex-recommended")
    points = [
        {"settings": {HOSTILE: 1}, "metrics": {}},
        {"settings": {"k": HOSTILE}, "metrics": {}},
    ]
    made = tabulated(
        *(make(labels={"seed": seed}) for seed in (0, 1)),
        *(make(HOSTILE, points=points, labels={"seed": seed}) for seed in (0, 1)),
        make("moe", status="failed", reason=HOSTILE),
        make("moe", status="failed", reason="alone", labels={"task": HOSTILE}),
    )
    (tmp_path / "table.tex").write_text(latex(made), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(DOCUMENT)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    assert "passwd" not in (tmp_path / "paper.log").read_text(errors="replace").split("(/etc")[-1]
